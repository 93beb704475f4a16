"""The SSH server on asyncssh's transport: serves accepted connections, reloads, and stops.

`packets.connection` alone depends on asyncssh's internals. The modules here use its public API:
the callbacks of `SSHServer` and `SSHServerSession`, and the methods listed at `Connection`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import asyncssh

from sftp_gateway.auth.authenticator import Authenticator
from sftp_gateway.auth.keys.generate import HostKey
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.limits.scheduler import Scheduler
from sftp_gateway.server.packets.transport import SocketReader
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.ssh import algorithms, host_keys
from sftp_gateway.server.ssh.callbacks import ConnectionCallbacks
from sftp_gateway.server.ssh.connection import Connection
from sftp_gateway.server.ssh.context import ServerContext
from sftp_gateway.server.ssh.handler import ClientHandler

#: The server's software version (RFC 4253 §4.2). Without a number, it tells scanners nothing.
SOFTWARE_VERSION: Final = "sftp_gateway"

#: Seconds in which sessions that were stopped get their last answers out.
_FINISH_TIMEOUT: Final = 3.0


class SshServer:
    """Serves connections that were accepted elsewhere. Made on the event loop."""

    def __init__(self, context: ServerContext, *, keys: Sequence[HostKey]) -> None:
        """Raises ConfigurationError for host keys that cannot be read."""
        self.context = context
        self._options = self._options_with(keys)
        self._handlers: set[ClientHandler] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._loop = asyncio.get_running_loop()
        self._scheduler = Scheduler(self._loop)
        context.access_log.add_room_callback(self._log_got_room)

    async def serve(self, accepted: socket.socket, callbacks: ConnectionCallbacks) -> None:
        """Start to serve a connection; `callbacks.ended` is called however it ends.

        Raises OSError if it is gone already.
        """
        connection = Connection(
            self._loop,
            self._options,
            context=self.context,
            callbacks=callbacks,
            scheduler=self._scheduler,
        )
        try:
            await self._loop.connect_accepted_socket(lambda: SocketReader(connection), accepted)
        except BaseException:
            accepted.close()
            callbacks.ended(None)
            raise
        if self.context.stopping:  # `drain` may have aborted all others already
            connection.abort()

    def reload_credentials(
        self, *, authenticator: Authenticator, keys: Sequence[HostKey], end_sessions: bool
    ) -> None:
        """Use other credentials and host keys from now on.

        Sessions stay; with `end_sessions`, those end whose logins the new credentials refuse.
        Raises ConfigurationError for host keys that cannot be read, and changes nothing then.
        """
        self._options = self._options_with(keys)
        self.context.authenticator = authenticator
        self.context.end_sessions = end_sessions
        for handler in tuple(self._handlers):
            handler.review()

    def _add(self, handler: ClientHandler) -> None:
        self._handlers.add(handler)
        self._empty.clear()

    def _remove(self, handler: ClientHandler) -> None:
        self._handlers.discard(handler)
        if not self._handlers:
            self._empty.set()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - of the first stage only
        """Stop: refuse logins, and give clients `timeout` seconds to finish the files they read.

        After that, answer the requests so far, and close every connection.
        """
        self.context.stopping = True
        for handler in tuple(self._handlers):
            handler.drain()
        if not await self._emptied(timeout):
            for handler in tuple(self._handlers):
                handler.finish()
            await self._emptied(_FINISH_TIMEOUT)
        for handler in tuple(self._handlers):
            handler.connection.abort()
        await self._emptied(_FINISH_TIMEOUT)
        self.context.password_threads.shutdown(wait=False, cancel_futures=True)

    def sessions(self) -> Iterator[tuple[Recorder, Iterable[FileHandle]]]:
        """The recorder and open files of each client that is logged in."""
        return (
            (handler.connection.recorder, handler.open_files())
            for handler in self._handlers
            if handler.connection.login.accepted
        )

    async def _emptied(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _log_got_room(self) -> None:
        # Called on the log's own thread.
        self._loop.call_soon_threadsafe(self._resume)

    def _resume(self) -> None:
        self.context.log_room.set()
        for handler in tuple(self._handlers):
            for channel in tuple(handler.connection.channels):
                channel.pump()

    def _handler(self) -> ClientHandler:
        return ClientHandler(self.context, on_connected=self._add, on_closed=self._remove)

    def _options_with(self, keys: Sequence[HostKey]) -> asyncssh.SSHServerConnectionOptions:
        context = self.context
        options = asyncssh.SSHServerConnectionOptions(
            config=None,
            server_factory=self._handler,
            server_version=SOFTWARE_VERSION,
            server_host_keys=host_keys.load(keys),
            send_server_host_keys=True,
            gss_host=None,
            x509_trusted_certs=None,
            kex_algs=algorithms.KEY_EXCHANGES,
            encryption_algs=context.offers.preferred.ciphers,
            mac_algs=context.offers.preferred.macs,
            signature_algs=context.signatures,
            compression_algs=["none", "zlib@openssh.com"],
            host_based_auth=False,
            kbdint_auth=False,
            allow_pty=False,
            agent_forwarding=False,
            x11_forwarding=False,
            line_editor=False,
            encoding=None,
            rekey_bytes=context.limits.rekey_limit,
            login_timeout=context.limits.login_grace_time,
            keepalive_interval=context.limits.keepalive_interval,
            keepalive_count_max=context.limits.keepalive_count_max,
        )
        for name in tuple(options.server_host_keys):
            if not algorithms.may_sign(name, context.signatures):
                del options.server_host_keys[name]
        return options
