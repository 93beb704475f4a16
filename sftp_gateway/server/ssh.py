"""The SSH server: connections, logins and channels, on asyncssh's transport.

Relies on asyncssh's public API: the callbacks of `SSHServer` and `SSHServerSession`, and methods
of `SSHServerConnection` that have public names (listed at `Connection`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import asyncssh

from sftp_gateway.auth.authenticator import Authenticator, Decision, Reason
from sftp_gateway.auth.blobs import fingerprint
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log import AccessLog
from sftp_gateway.observability.events import Session
from sftp_gateway.observability.metrics import Metrics
from sftp_gateway.server import algorithms, command
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp import SftpSession

_log = logging.getLogger(__name__)

#: What clients read first. It names no version: that would only help who looks for a weak one.
SOFTWARE_VERSION: Final = "sftp_gateway"

#: Bytes that a client may send on a channel before we have taken them. Requests are small.
_RECEIVE_WINDOW: Final = 512 * 1024
_MAX_PACKET: Final = 32 * 1024

#: Bytes that wait in a channel for its window, and in a socket for the network, before the
#: session makes no more. A 2 MiB window of a stock client is kept full across a long link.
_CHANNEL_BUFFER: Final = 1024 * 1024
_SOCKET_BUFFER: Final = 512 * 1024

#: Channels of one connection, as sshd's MaxSessions.
_MAX_CHANNELS: Final = 10

#: Threads that check passwords: each check takes 50 ms of a core and tens of MiB for that time.
_PASSWORD_THREADS: Final = 2

#: Seconds in which stopped sessions get their last answers out.
_FINISH_TIMEOUT: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a connection, as the settings of the same names say."""

    login_grace_time: float
    max_auth_tries: int
    keepalive_interval: float
    keepalive_count_max: int


class Connection(asyncssh.SSHServerConnection):
    """A connection that tells its sessions when the socket is full, and what logins came to.

    Overrides of asyncssh: `connection_made`, `pause_writing`, `resume_writing` (asyncio's
    Protocol callbacks, of which asyncssh ignores the last two), `reload_config` (there is no
    configuration file to read again at each login) and `validate_public_key` (the only place
    that sees the signature).
    """

    gateway_owner: Guest

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=_SOCKET_BUFFER)
        super().connection_made(transport)

    def pause_writing(self) -> None:
        """The socket has enough to send."""
        for channel in self.gateway_owner.channels:
            channel.socket_full(True)

    def resume_writing(self) -> None:
        """The socket has room again."""
        for channel in tuple(self.gateway_owner.channels):
            channel.socket_full(False)

    async def reload_config(self) -> None:
        """Nothing to read again."""

    async def validate_public_key(
        self, username: str, key_data: bytes, msg: bytes, signature: bytes
    ) -> bool:
        """Whether the key is allowed and, where there is one, its signature right."""
        guest, key = self.gateway_owner, fingerprint(key_data)
        if signature and _signature_algorithm(signature) not in algorithms.SIGNATURES:
            guest.refuse_login(username, "publickey", "signature_algorithm", key=key)
            return False
        guest.forget_decision()
        valid = await super().validate_public_key(username, key_data, msg, signature)
        if not valid:
            guest.key_refused(username, key)
        return valid


def _signature_algorithm(signature: bytes) -> str:
    """RFC 4253 §6.6: a signature starts with the name of its algorithm, as a string."""
    length = int.from_bytes(signature[:4], "big")
    return signature[4 : 4 + length].decode("ascii", "replace")


class Guest(asyncssh.SSHServer):
    """One client, from its connection to its end."""

    def __init__(self, server: SshServer) -> None:
        self._server = server
        self._refused = 0
        self._decision: Decision | None = None
        self._method: str | None = None
        self.channels: set[ChannelSession] = set()

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
        self._server.left(self)
        self._learn_versions()
        self.recorder.ended("server_stopping" if self._server.stopping else _reason(exc))

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
        decision = self._server.authenticator.check_key(username, key.public_data, self._address)
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
            self.refuse_login(user, method, decision.reason.value, key=decision.fingerprint)
        return decision.accepted

    def forget_decision(self) -> None:
        """Another key is tried."""
        self._decision = None

    def key_refused(self, user: str, key: str) -> None:
        """A key came to nothing: if it was not decided here, asyncssh has refused it."""
        if self._decision is None:  # a certificate, or a kind of key that is not served
            self.refuse_login(user, "publickey", Reason.KEY_NOT_AUTHORIZED.value, key=key)
        elif self._decision.accepted:
            self.refuse_login(user, "publickey", "bad_signature", key=key)

    def refuse_login(self, user: str, method: str, reason: str, *, key: str | None) -> None:
        """Log a refused attempt; raise DisconnectError after too many."""
        self.recorder.login_refused(user=user, method=method, key=key, reason=reason)
        self._refused += 1
        if self._refused >= self._server.limits.max_auth_tries:
            raise asyncssh.DisconnectError(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures"
            )

    def auth_completed(self) -> None:
        """The login was accepted, with what was decided last."""
        self.recorder.learn(
            user=self.connection.get_extra_info("username"),
            auth=self._method,
            key=self._decision.fingerprint if self._decision else None,
        )
        self.recorder.login_accepted()
        if self._server.stopping:
            self.connection.close()

    # Channels

    def session_requested(self) -> Any:
        """A session channel: SFTP, or a command that is refused."""
        if len(self.channels) >= _MAX_CHANNELS or self._server.stopping:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "Too many sessions")
        channel = self.connection.create_server_channel(
            encoding=None, window=_RECEIVE_WINDOW, max_pktsize=_MAX_PACKET
        )
        return channel, ChannelSession(self, self._server)

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        """Forwarding to a TCP port: refused."""
        return self._refuse_forwarding()

    def unix_connection_requested(self, dest_path: str) -> bool:
        """Forwarding to a socket: refused."""
        return self._refuse_forwarding()

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        """Listening for forwarding: refused."""
        return self._refuse_forwarding()

    def unix_server_requested(self, listen_path: str) -> bool:
        """Listening on a socket: refused."""
        return self._refuse_forwarding()

    def tun_requested(self, unit: int | None) -> bool:
        """A tunnel: refused."""
        return self._refuse_forwarding()

    def tap_requested(self, unit: int | None) -> bool:
        """A tunnel: refused."""
        return self._refuse_forwarding()

    def _refuse_forwarding(self) -> bool:
        self.recorder.command_refused("forwarding")
        return False

    # Stopping

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


class ChannelSession(asyncssh.SSHServerSession[bytes]):
    """A session channel; also the side of it that an SftpSession writes to."""

    def __init__(self, guest: Guest, server: SshServer) -> None:
        self._guest = guest
        self._server = server
        self._sftp: SftpSession | None = None
        self._command: str | None = None
        self._window_full = False
        self._socket_full = False

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """The channel is open."""
        self._channel = chan
        chan.set_write_buffer_limits(high=_CHANNEL_BUFFER)
        self._guest.channels.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed."""
        self._guest.channels.discard(self)
        if self._sftp is not None:
            self._sftp.connection_lost()

    def subsystem_requested(self, subsystem: str) -> bool:
        """`sftp` is served, nothing else."""
        if subsystem == "sftp":
            self._sftp = self._server.open_sftp(self, self._guest.recorder)
            return True
        self._guest.recorder.command_refused("subsystem", subsystem)
        return False

    def exec_requested(self, command: str) -> bool:
        """Taken, so that there is a channel to refuse it on."""
        self._command = command
        return True

    def shell_requested(self) -> bool:
        """Taken, so that there is a channel to refuse it on."""
        return True

    def session_started(self) -> None:
        """Answer a command or a shell."""
        if self._sftp is not None:
            return
        recorder = self._guest.recorder
        words = command.answer(self._command) if self._command is not None else None
        if words is not None and self._command is not None:
            recorder.command_answered(self._command)
            self._channel.write(words.encode())
            self._channel.exit(0)
        else:
            kind = "shell" if self._command is None else "exec"
            recorder.command_refused(kind, self._command)
            self._channel.write_stderr(command.REFUSAL.encode())
            self._channel.exit(1)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Bytes of the client."""
        if self._sftp is not None:
            self._sftp.data_received(data)

    def eof_received(self) -> bool:
        """The client sends no more; what it asked is still answered."""
        if self._sftp is not None:
            self._sftp.finish()
        return True

    def pause_writing(self) -> None:
        """The client's window is full."""
        self._window_full = True
        self._tell_room()

    def resume_writing(self) -> None:
        """It has room again."""
        self._window_full = False
        self._tell_room()

    def socket_full(self, full: bool) -> None:
        """The connection's socket has enough to send, or room again."""
        self._socket_full = full
        self._tell_room()

    def _tell_room(self) -> None:
        if self._sftp is None:
            return
        if self._window_full or self._socket_full:
            self._sftp.pause_writing()
        else:
            self._sftp.resume_writing()

    def pump(self) -> None:
        """The access log has room again."""
        if self._sftp is not None:
            self._sftp.pump()

    def drain(self) -> None:
        """Close once nothing is open."""
        if self._sftp is not None:
            self._sftp.drain()
        else:
            self._channel.close()

    def finish(self) -> None:
        """Close once what was asked is answered."""
        if self._sftp is not None:
            self._sftp.finish()
        else:
            self._channel.close()

    # What SftpSession needs of a channel

    def write(self, data: bytes) -> None:
        """Send `data`, unless the client has closed the channel meanwhile."""
        if not self._channel.is_closing():
            self._channel.write(data)

    def pause_reading(self) -> None:
        """Take no more from the client."""
        self._channel.pause_reading()

    def resume_reading(self) -> None:
        """Take more again."""
        self._channel.resume_reading()

    def close(self) -> None:
        """Close the channel when everything is sent; exit status 0, as sftp-server's."""
        if not self._channel.is_closing():
            self._channel.exit(0)


class SshServer:
    """Listens, and keeps account of the connections."""

    def __init__(
        self,
        *,
        host_keys: Sequence[Path],
        ciphers: Sequence[str],
        limits: Limits,
        authenticator: Authenticator,
        access_log: AccessLog,
        metrics: Metrics,
        open_sftp: Callable[[ChannelSession, Recorder], SftpSession],
    ) -> None:
        """Raises ConfigurationError for host keys and ciphers that cannot be used."""
        self.limits = limits
        self.authenticator = authenticator
        self.access_log = access_log
        self.metrics = metrics
        self.open_sftp = open_sftp
        self.stopping = False
        self.password_threads = ThreadPoolExecutor(_PASSWORD_THREADS, "password")
        self._guests: set[Guest] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._listeners: list[asyncio.Server] = []
        self._options = _options(self, host_keys, ciphers)

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Serve connections of bound sockets."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.access_log.add_room_callback(self._log_has_room)
        for each in sockets:
            listener = await loop.create_server(
                lambda: Connection(loop, self._options), sock=each, backlog=1024
            )
            self._listeners.append(listener)

    def entered(self, guest: Guest) -> None:
        """A connection was made."""
        self._guests.add(guest)
        self._empty.clear()

    def left(self, guest: Guest) -> None:
        """A connection is gone."""
        self._guests.discard(guest)
        if not self._guests:
            self._empty.set()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a stage of its own
        """Stop: no new logins; files that are being read get `timeout` seconds to their end.

        After that, what was asked so far is answered, and every connection is closed.
        """
        self.stopping = True
        for listener in self._listeners:
            listener.close()
        for guest in tuple(self._guests):
            guest.drain()
        if not await self._emptied(timeout):
            for guest in tuple(self._guests):
                guest.finish()
            await self._emptied(_FINISH_TIMEOUT)
        for guest in tuple(self._guests):
            guest.connection.abort()
        await self._emptied(_FINISH_TIMEOUT)
        self.password_threads.shutdown(wait=False, cancel_futures=True)

    async def _emptied(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _log_has_room(self) -> None:
        # Called on the log's own thread.
        self._loop.call_soon_threadsafe(self._pump_all)

    def _pump_all(self) -> None:
        for guest in tuple(self._guests):
            for channel in tuple(guest.channels):
                channel.pump()


def _options(
    server: SshServer, host_keys: Sequence[Path], ciphers: Sequence[str]
) -> asyncssh.SSHServerConnectionOptions:
    try:
        keys = [asyncssh.read_private_key(path) for path in host_keys]
    except (OSError, asyncssh.KeyImportError) as error:
        raise ConfigurationError([f"keys_dir: a host key cannot be read: {error}"]) from error
    try:
        return asyncssh.SSHServerConnectionOptions(
            config=None,
            server_factory=lambda: Guest(server),
            server_version=SOFTWARE_VERSION,
            server_host_keys=keys,
            gss_host=None,
            x509_trusted_certs=None,
            kex_algs=algorithms.KEY_EXCHANGES,
            encryption_algs=ciphers,
            mac_algs=algorithms.MACS,
            signature_algs=algorithms.SIGNATURES,
            compression_algs=["none", "zlib@openssh.com"],
            host_based_auth=False,
            kbdint_auth=False,
            allow_pty=False,
            agent_forwarding=False,
            x11_forwarding=False,
            line_editor=False,
            encoding=None,
            login_timeout=server.limits.login_grace_time,
            keepalive_interval=server.limits.keepalive_interval,
            keepalive_count_max=server.limits.keepalive_count_max,
        )
    except ValueError as error:
        raise ConfigurationError([f"ciphers: {error}"]) from error


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
        case asyncssh.DisconnectError():
            return "protocol_error"
    _log.error("a connection ended with an unexpected error", exc_info=error)
    return "error"
