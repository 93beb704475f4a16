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
from sftp_gateway.auth.keys.blobs import fingerprint
from sftp_gateway.auth.keys.certificates import Certificate
from sftp_gateway.auth.keys.generate import public_line
from sftp_gateway.auth.penalties import Offence
from sftp_gateway.observability.access_log.events import Session
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.ssh.channel import ChannelSession, SessionChannel
from sftp_gateway.server.ssh.connection import Connection
from sftp_gateway.server.ssh.idle import IdleWatch
from sftp_gateway.server.ssh.negotiation import Mismatch

if TYPE_CHECKING:
    from sftp_gateway.server.ssh.server import SshServer

_log = logging.getLogger(__name__)

#: Channels of one connection, as sshd's MaxSessions.
_MAX_CHANNELS: Final = 10


class Guest(asyncssh.SSHServer):
    """One client, from its connection to its end."""

    def __init__(self, server: SshServer) -> None:
        self._server = server
        self.signatures = server.signatures
        self.offers = server.offers
        self._refused = 0
        self._unknown_user = False
        self._verifying: str | None = None  # the user whose password is being verified
        self._nothing_tried = True
        self._flooded = False
        self._logged_in = False
        self._closed_for: str | None = None  # the reason where it is ours
        self._ended: str | None = None  # the reason, once the connection is gone
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
        stopping = "server_stopping" if self._server.stopping else None
        self._ended = self._closed_for or stopping or _reason(exc)
        if self._verifying is not None:  # nobody is left to tell, but it was an attempt
            self._count_refusal(self._verifying, "password", "connection_lost", key=None)
        self._learn_versions()
        if self._idle is not None:
            self._idle.stop()
        self._leave()

    def _leave(self) -> None:
        """Be gone, once nothing of what the client had open is left."""
        if self._ended is not None and not self.channels:
            self._server.left(self, self._misdeed(self._ended))
            self.recorder.ended(self._ended)

    def _misdeed(self, reason: str) -> str | None:
        """What a connection that ended like this is penalised for."""
        if reason == "error":
            return Offence.CRASH.value
        if self._flooded:
            return Offence.PROTOCOL_ERROR.value
        if self._logged_in or reason == "server_stopping":
            return None
        if reason == "login_timeout":
            return Offence.GRACE_EXCEEDED.value
        if self._unknown_user:
            return Offence.UNKNOWN_USER.value
        if self._refused:
            return Offence.FAILED_LOGIN.value
        return (Offence.PROTOCOL_ERROR if reason == "protocol_error" else Offence.NO_ATTEMPT).value

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
        self._verifying = username
        decision = await asyncio.get_running_loop().run_in_executor(
            self._server.password_threads,
            self._server.authenticator.check_password,
            username,
            password,
            self._address,
        )
        self._verifying = None
        return self._decided(username, "password", decision)

    def method_refused(self, user: str, method: bytes) -> None:
        """A login by a method that is not offered. Clients ask for `none` to see what is."""
        asked, self._nothing_tried = self._nothing_tried, False
        if not (asked and method == b"none"):
            self.refuse_login(
                user, method.decode("ascii", "replace"), "method_not_offered", key=None
            )

    def _decided(self, user: str, method: str, decision: Decision) -> bool:
        self._decision, self._method = decision, method
        if not decision.accepted:
            self.refuse_login(
                user,
                method,
                decision.reason.value,
                key=decision.fingerprint,
                label=decision.label,
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
            self.refuse_login(
                user,
                "publickey",
                "bad_signature",
                key=key,
                label=self._decision.label,
                certificate=self._decision.certificate,
            )

    def refuse_login(
        self,
        user: str,
        method: str,
        reason: str,
        *,
        key: str | None,
        label: str | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        """Log a refused attempt; raise DisconnectError after too many."""
        self._count_refusal(user, method, reason, key=key, label=label, certificate=certificate)
        if self._refused >= self._server.limits.max_auth_tries:
            raise asyncssh.DisconnectError(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures"
            )

    def _count_refusal(
        self,
        user: str,
        method: str,
        reason: str,
        *,
        key: str | None,
        label: str | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self.recorder.login_refused(
            user=user,
            method=method,
            key=key,
            key_label=label,
            reason=reason,
            **_named(certificate),
        )
        self._refused += 1
        self._unknown_user = self._unknown_user or reason == Reason.UNKNOWN_USER.value

    def auth_completed(self) -> None:
        """The login was accepted, with what was decided last."""
        user = self.connection.get_extra_info("username")
        decision = self._decision
        self.recorder.learn(
            user=user,
            auth=self._method,
            key=decision.fingerprint if decision else None,
            key_label=decision.label if decision else None,
            **_named(decision.certificate if decision else None),
        )
        self.recorder.login_accepted()
        self._logged_in = True
        self.connection.logged_in()
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

    def negotiation_failed(self, mismatch: Mismatch) -> None:
        """The client and the server have no algorithm of some kind in common."""
        self._closed_for = "no_common_algorithm"
        self._learn_versions()
        self.recorder.negotiation_failed(
            algorithm=mismatch.algorithm,
            their_offer=mismatch.their_offer,
            remedy=mismatch.remedy,
        )

    def flooded(self) -> None:
        """The client is disconnected for the number of messages that it sent."""
        self._flooded = True

    def key_exchange_timed_out(self) -> None:
        """The client has not finished a key exchange."""
        self._close_for("key_exchange_timeout", "Key exchange timed out")

    @property
    def log_congested(self) -> bool:
        """Whether what means a line in the access log has to wait."""
        return self._server.access_log.congested(self.recorder.session.user)

    async def log_has_room(self) -> None:
        """Wait until the access log has room."""
        await self._server.log_has_room(self.recorder.session.user)

    def read_failed(self) -> None:
        """A READ has failed, and its channel is closed for that."""
        self._closed_for = "read_failed"
        self.interrupted()

    def interrupted(self) -> None:
        """The connection ends while the client has files open, and not by its own will."""
        self._server.interrupted(self)

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
        return SessionChannel(self.connection), ChannelSession(self, self._server)

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
        """A channel is gone. A client that has no other is not waited for when the server stops,
        or when a READ has failed.
        """
        self._granted -= 1
        self.channels.discard(channel)
        if self._ended is not None:
            self._leave()
        elif (self._server.stopping or self._closed_for) and not self.channels:
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
        if all(channel.closed for channel in self.channels):
            self.connection.close()
        for channel in tuple(self.channels):
            channel.drain()

    def finish(self) -> None:
        """Answer what was asked so far, and close."""
        for channel in tuple(self.channels):
            channel.finish()


def _signed_by_authority(certificate: Certificate) -> bool:
    """Whether the authority that the certificate names has signed it."""
    line = public_line(certificate.authority)
    try:
        return asyncssh.import_public_key(line).verify(certificate.signed, certificate.signature)
    except (ValueError, asyncssh.Error):
        return False


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
