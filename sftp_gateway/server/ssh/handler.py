"""One client, from its connection to its end: asyncssh's callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Final, cast

import asyncssh

from sftp_gateway.auth.authenticator import Reason
from sftp_gateway.auth.penalties import Offence
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.ssh.channel import ChannelSession, SessionChannel
from sftp_gateway.server.ssh.connection import Connection
from sftp_gateway.server.ssh.context import ServerContext
from sftp_gateway.server.ssh.idle import IdleTimer

_log = logging.getLogger(__name__)

#: Channels of one connection, as sshd's MaxSessions.
_MAX_CHANNELS: Final = 10


class ClientHandler(asyncssh.SSHServer):
    """The callbacks of one client's connection."""

    connection: Connection

    def __init__(
        self,
        context: ServerContext,
        *,
        on_connected: Callable[[ClientHandler], None],
        on_closed: Callable[[ClientHandler], None],
    ) -> None:
        """`on_closed` is called once the connection and all files of its client are closed."""
        self._context = context
        self._on_connected = on_connected
        self._on_closed = on_closed
        self._end_reason: str | None = None  # once the connection is gone
        self._idle_timer: IdleTimer | None = None
        #: Channels requested and not closed. asyncssh opens them a little later.
        self._channels_requested = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """A client connected."""
        self.connection = connection = cast(Connection, conn)
        self._context.metrics.connection_opened()
        if connection.recorder.session.client_ip not in ("127.0.0.1", "::1"):
            # A health check connects from this machine. It is logged only if it tries to log in.
            connection.recorder.connected()
        connection.callbacks.disconnect = lambda: connection.close_for(
            "too_many_sessions", "Too many sessions"
        )
        self._on_connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        connection = self.connection
        stopping = "server_stopping" if self._context.stopping else None
        self._end_reason = connection.end_reason or stopping or _end_reason_of(exc)
        connection.login.connection_lost()
        connection.note_negotiated()
        if self._idle_timer is not None:
            self._idle_timer.stop()
        self._report_closed()

    def _report_closed(self) -> None:
        """Report the end, once all files of the client are closed too."""
        if self._end_reason is not None and not self.connection.channels:
            self._on_closed(self)
            self.connection.callbacks.ended(self._offence(self._end_reason))
            self.connection.recorder.ended(self._end_reason)

    def _offence(self, reason: str) -> str | None:
        """What a connection that ended for `reason` is penalised for."""
        login = self.connection.login
        if reason == "error":
            return Offence.CRASH.value
        if self.connection.flooded:
            return Offence.PROTOCOL_ERROR.value
        if login.accepted or reason == "server_stopping":
            return None
        if reason == "login_timeout":
            return Offence.GRACE_EXCEEDED.value
        if login.unknown_user:
            return Offence.UNKNOWN_USER.value
        if login.refused:
            return Offence.FAILED_LOGIN.value
        return (Offence.PROTOCOL_ERROR if reason == "protocol_error" else Offence.NO_ATTEMPT).value

    # Login

    def begin_auth(self, username: str) -> bool:
        """Require a login of every user. (False would let them in without.)"""
        self.connection.note_negotiated()
        self.connection.recorder.connected()
        return True

    def public_key_auth_supported(self) -> bool:
        """Accept keys for any name, so that the answer does not tell which users exist."""
        return True

    def password_auth_supported(self) -> bool:
        """Accept passwords if any user has one."""
        return self.connection.login.passwords_offered

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether the user may log in with this key."""
        return self.connection.login.check_key(username, key.public_data)

    async def validate_password(self, username: str, password: str) -> bool:
        """Whether this is the user's password."""
        return await self.connection.login.check_password(username, password)

    def auth_completed(self) -> None:
        """The login was accepted."""
        connection, context = self.connection, self._context
        user = connection.get_extra_info("username")
        connection.login.accept(user)
        connection.read_without_bound()
        connection.callbacks.logged_in(user, connection.recorder.credential)
        self.review()  # the credentials may have changed since the decision
        if context.stopping:
            connection.close()
        elif context.limits.idle_timeout:
            self._idle_timer = IdleTimer(
                seconds=context.limits.idle_timeout,
                activity=self._activity,
                expired=lambda: connection.close_for("idle", "Idle for too long"),
            )

    def _activity(self) -> int | None:
        """The number of requests so far; None while the client waits for an answer."""
        busy = any(channel.busy for channel in self.connection.channels)
        return None if busy else self.connection.recorder.requests

    def review(self) -> None:
        """End the session if the current credentials would refuse its login."""
        connection = self.connection
        if connection.end_reason or not self._context.end_sessions:
            return
        reason = connection.login.review()
        if reason is not Reason.ACCEPTED:
            connection.recorder.credentials_removed(reason.value)
            connection.close_for("credentials_removed", "You may not be logged in any more")

    # Channels

    def session_requested(self) -> Any:
        """Open a session channel, for SFTP or a command."""
        if self._channels_requested >= _MAX_CHANNELS or self._context.stopping:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "Too many sessions")
        self._channels_requested += 1
        return SessionChannel(self.connection), ChannelSession(
            self.connection,
            budget=self._context.budget,
            sessions=self._context.sessions,
            on_closed=self._channel_closed,
        )

    def _channel_closed(self) -> None:
        self._channels_requested -= 1
        if self._end_reason is not None:
            self._report_closed()
        elif (self._context.stopping or self.connection.end_reason) and not (
            self.connection.channels
        ):
            self.connection.close()

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        """Forwarding to a TCP port: refused."""
        return self.connection.refuse_forwarding()

    def unix_connection_requested(self, dest_path: str) -> bool:
        """Forwarding to a socket: refused."""
        return self.connection.refuse_forwarding()

    def tun_requested(self, unit: int | None) -> bool:
        """A tunnel: refused."""
        return self.connection.refuse_forwarding()

    def tap_requested(self, unit: int | None) -> bool:
        """A tunnel: refused."""
        return self.connection.refuse_forwarding()

    def open_files(self) -> Iterator[FileHandle]:
        """The files that the client has open, on all its channels."""
        return chain.from_iterable(channel.open_files() for channel in self.connection.channels)

    # Stopping

    def drain(self) -> None:
        """Close once the client has closed its files."""
        channels = self.connection.channels
        if all(channel.closed for channel in channels):
            self.connection.close()
        for channel in tuple(channels):
            channel.drain()

    def finish(self) -> None:
        """Close once the requests so far are answered."""
        if any(self.open_files()):
            self.connection.callbacks.interrupted()
        for channel in tuple(self.connection.channels):
            channel.finish()


def _end_reason_of(error: Exception | None) -> str:
    """How a connection ended, as the access log names it."""
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
        case asyncssh.DisconnectError() | ValueError():  # ValueError: asyncssh could not decode it
            return "protocol_error"
    _log.error("a connection ended with an unexpected error", exc_info=error)
    return "error"
