"""One client, from its connection to its end: what it may log in with, and what it may open."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, cast

import asyncssh

from sftp_gateway.auth.authenticator import Decision, Login, Reason
from sftp_gateway.auth.blobs import fingerprint
from sftp_gateway.auth.certificates import Certificate, is_certificate, read_certificate
from sftp_gateway.auth.keys import public_line
from sftp_gateway.auth.penalties import Kind
from sftp_gateway.observability.events import Session
from sftp_gateway.server.channel import ChannelSession, refuse_unwanted
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.idle import IdleWatch
from sftp_gateway.server.packets.connection import PacketConnection
from sftp_gateway.server.recorder import Recorder

if TYPE_CHECKING:
    from asyncssh.packet import SSHPacket, SSHPacketLogger

    from sftp_gateway.server.ssh import SshServer

_log = logging.getLogger(__name__)

#: Bytes that a client may send on a channel before we have taken them. Requests are small.
_RECEIVE_WINDOW: Final = 512 * 1024
_MAX_PACKET: Final = 32 * 1024

#: Bytes that wait in a socket for the network before the sessions make no more.
_SOCKET_BUFFER: Final = 512 * 1024

#: Bytes of a connection that wait for it to be read on, and for the network to take them, over
#: which nothing more is read. The first is more than the longest packet, and many come together
#: while a login is being decided; the second, more than sessions ever leave there: only answers
#: that have no window, such as those to global requests, come to so much.
_MAX_UNREAD: Final = 512 * 1024
_MAX_UNTAKEN: Final = 2 * 1024 * 1024

#: Channels of one connection, as sshd's MaxSessions.
_MAX_CHANNELS: Final = 10


class Connection(PacketConnection):
    """A connection that tells its sessions when the socket is full, and what logins came to.

    Overrides of asyncssh: `connection_made`, `pause_writing`, `resume_writing` (asyncio's
    Protocol callbacks, of which asyncssh ignores the last two), `_recv_data` (called whenever
    there is something to read), `send_packet`, `_process_tcpip_forward_global_request` and
    `_process_streamlocal_forward_...` (each would wait a turn of the loop, behind any number of
    others, to ask whether it may listen), `reload_config` (there is no configuration file to
    read again at each login) and `validate_public_key` (the only place that sees the signature).
    """

    gateway_owner: Guest
    _writing_paused = False
    _reading_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._socket = cast(asyncio.Transport, transport)
        self.limit_write_buffer(None)
        super().connection_made(transport)

    @property
    def write_buffer_size(self) -> int:
        """Bytes that wait for the network to take them."""
        return self._socket.get_write_buffer_size()

    def limit_write_buffer(self, high: int | None) -> None:
        """Bytes that may wait there before the sessions are told; None: as many as usual."""
        self._socket.set_write_buffer_limits(high=high or _SOCKET_BUFFER)

    def pause_writing(self) -> None:
        """The socket has enough to send."""
        self._writing_paused = True
        for channel in tuple(self.gateway_owner.channels):
            channel.socket_full(True)

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._writing_paused = False
        self._balance_reading()
        for channel in tuple(self.gateway_owner.channels):
            channel.socket_full(False)

    def _recv_data(self) -> None:
        """Read what came, and no more where too much of it is left or too much was answered.

        asyncssh keeps both without a bound: what comes while it waits for the decision about a
        login, and what it answers to a client that does not read.
        """
        super()._recv_data()
        if self._writing_paused or self._reading_paused or len(self._inpbuf) > _MAX_UNREAD:
            self._balance_reading()

    def _balance_reading(self) -> None:
        if self._transport is None or self._socket.is_closing():
            return
        wait = len(self._inpbuf) > _MAX_UNREAD or (
            self._writing_paused and self.write_buffer_size > _MAX_UNTAKEN
        )
        if wait != self._reading_paused:
            self._reading_paused = wait
            if wait:
                self._socket.pause_reading()
            else:
                self._socket.resume_reading()

    def send_packet(
        self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None:
        """Send a packet, but not the empty MSG_IGNORE that asyncssh puts before every other.

        Those hide the first block of a packet from who can choose its text, against CBC ciphers
        (RFC 4251 §9.3.1), of which none can be offered; and they double the number of packets.
        """
        if pkttype != asyncssh.constants.MSG_IGNORE:
            self._watch_keys(pkttype)
            super().send_packet(pkttype, *args, handler=handler)

    def _watch_keys(self, pkttype: int) -> None:
        """Let the sessions wait while keys are exchanged.

        asyncssh keeps what it may not send meanwhile (RFC 4253 §7.1), and a client that does not
        answer would have it keep all that its window allows.
        """
        if pkttype in (asyncssh.constants.MSG_KEXINIT, asyncssh.constants.MSG_NEWKEYS):
            self._keys_awaited = pkttype == asyncssh.constants.MSG_KEXINIT
            # Behind what asyncssh has kept, which may make it ask for new keys again.
            asyncio.get_running_loop().call_soon(self._tell_keys)

    def _tell_keys(self) -> None:
        for channel in tuple(self.gateway_owner.channels):
            channel.keys_awaited(self._keys_awaited)

    def _process_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        """Listening on a port, to forward it: refused."""
        self._report_global_response(self.gateway_owner.refuse_forwarding())

    def _process_streamlocal_forward_at_openssh_dot_com_global_request(
        self, packet: SSHPacket
    ) -> None:
        """Listening on a socket, to forward it: refused."""
        self._report_global_response(self.gateway_owner.refuse_forwarding())

    async def reload_config(self) -> None:
        """Nothing to read again."""

    async def validate_public_key(
        self, username: str, key_data: bytes, msg: bytes, signature: bytes
    ) -> bool:
        """Whether the key is allowed and, where there is one, its signature right."""
        guest, key = self.gateway_owner, fingerprint(key_data)
        if signature and _signature_algorithm(signature) not in guest.signatures:
            guest.refuse_login(username, "publickey", "signature_algorithm", key=key)
            return False
        certificate = None
        if is_certificate(key_data):
            try:
                certificate = read_certificate(key_data)
            except ValueError as error:
                _log.debug("a certificate was refused: %s", error)
                reason = Reason.CERTIFICATE_INVALID.value
                guest.refuse_login(username, "publickey", reason, key=key)
                return False
            # What the client signs with is the key in the certificate, and the guest is asked
            # about that: it remembers where the key comes from.
            key_data = certificate.key
            key = fingerprint(key_data)
        guest.forget_decision(certificate)
        valid = await super().validate_public_key(username, key_data, msg, signature)
        if not valid:
            guest.key_refused(username, key)
        return valid


def _signed_by_authority(certificate: Certificate) -> bool:
    """Whether the authority that the certificate names has signed it."""
    line = public_line(certificate.authority)
    try:
        return asyncssh.import_public_key(line).verify(certificate.signed, certificate.signature)
    except (ValueError, asyncssh.Error):
        return False


def _signature_algorithm(signature: bytes) -> str:
    """RFC 4253 §6.6: a signature starts with the name of its algorithm, as a string."""
    length = int.from_bytes(signature[:4], "big")
    return signature[4 : 4 + length].decode("ascii", "replace")


class Guest(asyncssh.SSHServer):
    """One client, from its connection to its end."""

    def __init__(self, server: SshServer) -> None:
        self._server = server
        self.signatures = server.signatures
        self._refused = 0
        self._unknown_user = False
        self._logged_in = False
        self._closed_for: str | None = None  # the reason where it is ours
        self._idle: IdleWatch | None = None
        self._decision: Decision | None = None
        self._certificate: Certificate | None = None
        self._login: Login | None = None
        self._method: str | None = None
        self.channels: set[ChannelSession] = set()
        #: Channels that were asked for and are not gone: asyncssh opens them a little later.
        self._granted = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """A client connected."""
        self.connection = cast(Connection, conn)
        self.connection.gateway_owner = self
        address, port = (conn.get_extra_info("peername") or ("", 0))[:2]
        self._address = address.removeprefix("::ffff:") if "." in address else address
        session = Session(session=secrets.token_hex(8), client_ip=self._address, client_port=port)
        self.recorder = Recorder(
            session=session, log=self._server.access_log, metrics=self._server.metrics
        )
        self._server.metrics.connection_opened()
        if self._address not in ("127.0.0.1", "::1"):
            # A health check connects from this machine and says nothing: it is worth no line
            # unless it tries to log in.
            self.recorder.connected()
        self._server.entered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        reason = self._closed_for or ("server_stopping" if self._server.stopping else _reason(exc))
        self._server.left(self, self._misdeed(reason))
        self._learn_versions()
        if self._idle is not None:
            self._idle.stop()
        self.recorder.ended(reason)

    def _misdeed(self, reason: str) -> str | None:
        """What a connection that ended like this is penalised for."""
        if reason == "error":
            return Kind.CRASH.value
        if self._logged_in or reason == "server_stopping":
            return None
        if reason == "login_timeout":
            return Kind.GRACE_EXCEEDED.value
        if self._unknown_user:
            return Kind.UNKNOWN_USER.value
        if self._refused:
            return Kind.FAILED_LOGIN.value
        return (Kind.PROTOCOL_ERROR if reason == "protocol_error" else Kind.NO_ATTEMPT).value

    def _learn_versions(self) -> None:
        self.recorder.learn(
            client_version=self.connection.get_extra_info("client_version"),
            cipher=self.connection.get_extra_info("send_cipher"),
        )

    # Login

    def begin_auth(self, username: str) -> bool:
        """Every user has to log in; returning False would let them in without."""
        self._learn_versions()
        self.recorder.connected()
        return True

    def public_key_auth_supported(self) -> bool:
        """Keys are taken from any name, so that the answer does not tell who exists."""
        return True

    def password_auth_supported(self) -> bool:
        """Passwords too, once any user has one."""
        return self._server.authenticator.passwords_offered

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether the user may log in with this key; its signature is checked after that."""
        authenticator = self._server.authenticator
        if self._certificate is None:
            decision = authenticator.check_key(username, key.public_data, self._address)
            return self._decided(username, "publickey", decision)
        decision = authenticator.check_certificate(username, self._certificate, self._address)
        # Whose authority is not trusted is refused before anybody works for its signature.
        if decision.certificate is not None and not _signed_by_authority(decision.certificate):
            decision = Decision(reason=Reason.CERTIFICATE_INVALID, fingerprint=decision.fingerprint)
        return self._decided(username, "publickey", decision)

    async def validate_password(self, username: str, password: str) -> bool:
        """Whether this is the user's password."""
        decision = await asyncio.get_running_loop().run_in_executor(
            self._server.password_threads,
            self._server.authenticator.check_password,
            username,
            password,
            self._address,
        )
        return self._decided(username, "password", decision)

    def _decided(self, user: str, method: str, decision: Decision) -> bool:
        self._decision, self._method = decision, method
        if not decision.accepted:
            self.refuse_login(
                user,
                method,
                decision.reason.value,
                key=decision.fingerprint,
                certificate=decision.certificate,
            )
        return decision.accepted

    def forget_decision(self, certificate: Certificate | None) -> None:
        """Another key is tried, which is that of a certificate or just a key."""
        self._decision, self._certificate = None, certificate

    def key_refused(self, user: str, key: str) -> None:
        """A key came to nothing: if it was not decided here, asyncssh has refused it."""
        if self._decision is None:  # a kind of key that is not served
            self.refuse_login(user, "publickey", Reason.KEY_NOT_AUTHORIZED.value, key=key)
        elif self._decision.accepted:
            certificate = self._decision.certificate
            self.refuse_login(user, "publickey", "bad_signature", key=key, certificate=certificate)

    def refuse_login(
        self,
        user: str,
        method: str,
        reason: str,
        *,
        key: str | None,
        certificate: Certificate | None = None,
    ) -> None:
        """Log a refused attempt; raise DisconnectError after too many."""
        self.recorder.login_refused(
            user=user, method=method, key=key, reason=reason, **_named(certificate)
        )
        self._refused += 1
        self._unknown_user = self._unknown_user or reason == Reason.UNKNOWN_USER.value
        if self._refused >= self._server.limits.max_auth_tries:
            raise asyncssh.DisconnectError(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures"
            )

    def auth_completed(self) -> None:
        """The login was accepted, with what was decided last."""
        user = self.connection.get_extra_info("username")
        decision = self._decision
        self.recorder.learn(
            user=user,
            auth=self._method,
            key=decision.fingerprint if decision else None,
            **_named(decision.certificate if decision else None),
        )
        self.recorder.login_accepted()
        self._logged_in = True
        self._server.logged_in(self, user)
        self._login = decision.login if decision else None
        self.review()  # the credentials may have changed since the decision
        if self._server.stopping:
            self.connection.close()
        elif self._server.limits.idle_timeout:
            self._idle = IdleWatch(
                seconds=self._server.limits.idle_timeout,
                active=self._active,
                expired=lambda: self._close_for("idle", "Idle for too long"),
            )

    def _active(self) -> int | None:
        """How many requests were answered; None while the client waits for any."""
        busy = any(channel.busy for channel in self.channels)
        return None if busy else self.recorder.requests

    def dismiss(self) -> None:
        """The user has too many sessions."""
        self._close_for("too_many_sessions", "Too many sessions")

    def _close_for(self, reason: str, text: str) -> None:
        self._closed_for = reason
        self.connection.disconnect(asyncssh.DISC_BY_APPLICATION, text)

    def review(self) -> None:
        """End the session if the server wants that, and its user would not be let in any more."""
        if self._login is None or self._closed_for or not self._server.end_sessions:
            return
        reason = self._server.authenticator.review(self._login)
        if reason is not Reason.ACCEPTED:
            self.recorder.credentials_removed(reason.value)
            self._close_for("credentials_removed", "You may not be logged in any more")

    # Channels

    def session_requested(self) -> Any:
        """A session channel: SFTP, or a command that is refused."""
        if self._granted >= _MAX_CHANNELS or self._server.stopping:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "Too many sessions")
        self._granted += 1
        channel = self.connection.create_server_channel(
            encoding=None, window=_RECEIVE_WINDOW, max_pktsize=_MAX_PACKET
        )
        refuse_unwanted(channel)
        return channel, ChannelSession(self, self._server)

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        """Forwarding to a TCP port: refused."""
        return self.refuse_forwarding()

    def unix_connection_requested(self, dest_path: str) -> bool:
        """Forwarding to a socket: refused."""
        return self.refuse_forwarding()

    def tun_requested(self, unit: int | None) -> bool:
        """A tunnel: refused."""
        return self.refuse_forwarding()

    def tap_requested(self, unit: int | None) -> bool:
        """A tunnel: refused."""
        return self.refuse_forwarding()

    def refuse_forwarding(self) -> bool:
        """Log that forwarding was asked for, and give False."""
        self.recorder.command_refused("forwarding")
        return False

    # Stopping

    def channel_closed(self, channel: ChannelSession) -> None:
        """A channel is gone. A client that has no other is not waited for when the server stops."""
        self._granted -= 1
        self.channels.discard(channel)
        if self._server.stopping and not self.channels:
            self.connection.close()

    @property
    def logged_in(self) -> bool:
        """Whether the login was accepted."""
        return self._logged_in

    def open_files(self) -> Iterator[FileHandle]:
        """What the client has open, on all its channels."""
        return chain.from_iterable(channel.open_files() for channel in self.channels)

    def drain(self) -> None:
        """Let the files that are being read come to their end, then close."""
        if not self.channels:
            self.connection.close()
        for channel in tuple(self.channels):
            channel.drain()

    def finish(self) -> None:
        """Answer what was asked so far, and close."""
        for channel in tuple(self.channels):
            channel.finish()


def _named(certificate: Certificate | None) -> dict[str, Any]:
    """A certificate as the access log names it."""
    if certificate is None:
        return {}
    return {
        "ca": fingerprint(certificate.authority),
        "certificate": certificate.key_id,
        "serial": certificate.serial,
    }


def _reason(error: Exception | None) -> str:
    """A stable word for how a connection ended."""
    match error:
        case None:
            return "closed"
        case asyncssh.ConnectionLost() if "keepalive" in str(error):
            return "not_responding"
        case asyncssh.ConnectionLost() if "timeout" in str(error).lower():
            return "login_timeout"
        case asyncssh.ConnectionLost() | OSError():
            return "connection_lost"
        case asyncssh.KeyExchangeFailed():
            return "no_common_algorithm"
        case asyncssh.DisconnectError() if (
            error.code == asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE
        ):
            return "too_many_login_attempts"
        case asyncssh.DisconnectError() | ValueError():  # what asyncssh failed to decode
            return "protocol_error"
    _log.error("a connection ended with an unexpected error", exc_info=error)
    return "error"
