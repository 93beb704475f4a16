"""The SSH server on asyncssh's transport: taking connections, keeping account of them, stopping.

Here and in guest.py and channel.py, asyncssh is used by its public API: the callbacks of
`SSHServer` and `SSHServerSession`, and methods of `SSHServerConnection` that have public names
(listed at `Connection`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncssh

from sftp_gateway.auth.authenticator import Authenticator
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log import AccessLog
from sftp_gateway.observability.metrics import Metrics
from sftp_gateway.server import algorithms
from sftp_gateway.server.budget import Budget
from sftp_gateway.server.channel import ChannelSession
from sftp_gateway.server.guest import Connection, Guest
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp import SftpSession

#: What clients read first. It names no version: that would only help who looks for a weak one.
SOFTWARE_VERSION: Final = "sftp_gateway"

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
    rekey_limit: int


class SshServer:
    """Takes connections that were accepted elsewhere, and keeps account of them."""

    def __init__(
        self,
        *,
        host_keys: Sequence[Path],
        ciphers: Sequence[str],
        macs: Sequence[str],
        signatures: Sequence[str],
        own_record_layer: bool,
        limits: Limits,
        authenticator: Authenticator,
        access_log: AccessLog,
        metrics: Metrics,
        open_sftp: Callable[[ChannelSession, Recorder], SftpSession],
    ) -> None:
        """`own_record_layer`: whether connections seal and open packets themselves.

        Raises ConfigurationError for host keys that cannot be read.
        """
        self._own_record_layer = own_record_layer
        self.limits = limits
        self.authenticator = authenticator
        self.access_log = access_log
        self.metrics = metrics
        self.open_sftp = open_sftp
        self.budget = Budget()
        self.stopping = False
        self.password_threads = ThreadPoolExecutor(_PASSWORD_THREADS, "password")
        self._guests: set[Guest] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._ended: dict[asyncssh.SSHServerConnection, Callable[[], None]] = {}
        self._loop = asyncio.get_running_loop()
        self.signatures = signatures
        self._options = _options(self, host_keys, ciphers, macs)
        access_log.add_room_callback(self._log_has_room)

    async def adopt(self, accepted: socket.socket, ended: Callable[[], None]) -> None:
        """Serve a connection; call `ended` once it has ended, also where it fails at once.

        Raises OSError where it is gone already.
        """
        connection = Connection(self._loop, self._options, fast=self._own_record_layer)
        self._ended[connection] = ended
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted)
        except BaseException:
            accepted.close()
            self._tell_ended(connection)
            raise
        if self.stopping:  # nobody else would close it: `drain` may have been here already
            connection.abort()

    def _tell_ended(self, connection: asyncssh.SSHServerConnection) -> None:
        tell = self._ended.pop(connection, None)
        if tell is not None:
            tell()

    def entered(self, guest: Guest) -> None:
        """A connection was made."""
        self._guests.add(guest)
        self._empty.clear()

    def left(self, guest: Guest) -> None:
        """A connection is gone."""
        self._guests.discard(guest)
        self._tell_ended(guest.connection)
        if not self._guests:
            self._empty.set()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a stage of its own
        """Stop: no new logins; files that are being read get `timeout` seconds to their end.

        After that, what was asked so far is answered, and every connection is closed.
        """
        self.stopping = True
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
    server: SshServer, host_keys: Sequence[Path], ciphers: Sequence[str], macs: Sequence[str]
) -> asyncssh.SSHServerConnectionOptions:
    try:
        keys = [asyncssh.read_private_key(path) for path in host_keys]
    except (OSError, asyncssh.KeyImportError) as error:
        raise ConfigurationError([f"keys_dir: a host key cannot be read: {error}"]) from error
    options = asyncssh.SSHServerConnectionOptions(
        config=None,
        server_factory=lambda: Guest(server),
        server_version=SOFTWARE_VERSION,
        server_host_keys=keys,
        gss_host=None,
        x509_trusted_certs=None,
        kex_algs=algorithms.KEY_EXCHANGES,
        encryption_algs=ciphers,
        mac_algs=macs,
        signature_algs=server.signatures,
        compression_algs=["none", "zlib@openssh.com"],
        host_based_auth=False,
        kbdint_auth=False,
        allow_pty=False,
        agent_forwarding=False,
        x11_forwarding=False,
        line_editor=False,
        encoding=None,
        rekey_bytes=server.limits.rekey_limit,
        login_timeout=server.limits.login_grace_time,
        keepalive_interval=server.limits.keepalive_interval,
        keepalive_count_max=server.limits.keepalive_count_max,
    )
    for name in tuple(options.server_host_keys):
        if not algorithms.may_sign(name, server.signatures):
            del options.server_host_keys[name]
    return options
