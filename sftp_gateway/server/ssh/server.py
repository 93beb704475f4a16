"""The SSH server on asyncssh's transport: taking connections, keeping account of them, stopping.

Here and in connection.py, guest.py and channel.py, asyncssh is used by its public API: the
callbacks of `SSHServer` and `SSHServerSession`, and methods of `SSHServerConnection` that have
public names (listed at `Connection`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import asyncssh

from sftp_gateway.auth.authenticator import Authenticator
from sftp_gateway.auth.keys.generate import HostKey
from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.observability.metrics.process_metrics import Metrics
from sftp_gateway.server.exec.session import CommandSession
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.io_pools import lower_priority
from sftp_gateway.server.limits.budget import BufferBudget
from sftp_gateway.server.limits.scheduler import Scheduler
from sftp_gateway.server.packets.transport import SocketReader
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp.session import SftpSession
from sftp_gateway.server.ssh import algorithms, host_keys
from sftp_gateway.server.ssh.callbacks import Account
from sftp_gateway.server.ssh.channel import ChannelSession
from sftp_gateway.server.ssh.connection import Connection
from sftp_gateway.server.ssh.handler import Guest
from sftp_gateway.server.ssh.negotiation import Offers

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
    idle_timeout: float = 0.0  # 0: never


class SshServer:
    """Takes connections that were accepted elsewhere, and keeps account of them."""

    def __init__(
        self,
        *,
        keys: Sequence[HostKey],
        offers: Offers,
        signatures: Sequence[str],
        own_record_layer: bool,
        limits: Limits,
        authenticator: Authenticator,
        end_sessions: bool,
        access_log: AccessLog,
        metrics: Metrics,
        open_sftp: Callable[[ChannelSession, Recorder], SftpSession],
        open_command: Callable[[ChannelSession, Recorder], CommandSession],
    ) -> None:
        """`own_record_layer`: whether connections seal and open packets themselves.

        `end_sessions` is as `take` tells.

        Raises ConfigurationError for host keys that cannot be read.
        """
        self._own_record_layer = own_record_layer
        self.limits = limits
        self.authenticator = authenticator
        self.access_log = access_log
        self.metrics = metrics
        self.open_sftp = open_sftp
        self.open_command = open_command
        self.budget = BufferBudget()
        self.stopping = False
        self.end_sessions = end_sessions
        self.password_threads = ThreadPoolExecutor(
            _PASSWORD_THREADS, "password", initializer=lower_priority
        )
        self._guests: set[Guest] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._accounts: dict[asyncssh.SSHServerConnection, Account] = {}
        self._loop = asyncio.get_running_loop()
        self._scheduler = Scheduler(self._loop)
        self._log_room = asyncio.Event()
        self.signatures = signatures
        self.offers = offers
        self._options = _options(self, keys)
        access_log.add_room_callback(self._log_got_room)

    async def adopt(self, accepted: socket.socket, account: Account) -> None:
        """Serve a connection; tell `account` once it has ended, also where it fails at once.

        Raises OSError where it is gone already.
        """
        connection = Connection(
            self._loop, self._options, scheduler=self._scheduler, fast=self._own_record_layer
        )
        self._accounts[connection] = account
        try:
            await self._loop.connect_accepted_socket(lambda: SocketReader(connection), accepted)
        except BaseException:
            accepted.close()
            self._tell_ended(connection, None)
            raise
        if self.stopping:  # nobody else would close it: `drain` may have been here already
            connection.abort()

    def take(
        self, *, authenticator: Authenticator, keys: Sequence[HostKey], end_sessions: bool
    ) -> None:
        """Decide by other credentials and prove oneself by other host keys from now on.

        Connections go on as they are; with `end_sessions` those end whose users would not have
        been let in by these credentials. Raises ConfigurationError for host keys that cannot be
        read, and nothing is taken then.
        """
        self._options = _options(self, keys)
        self.authenticator = authenticator
        self.end_sessions = end_sessions
        for guest in tuple(self._guests):
            guest.review()

    def _tell_ended(self, connection: asyncssh.SSHServerConnection, misdeed: str | None) -> None:
        account = self._accounts.pop(connection, None)
        if account is not None:
            account.ended(misdeed)

    def entered(self, guest: Guest) -> None:
        """A connection was made."""
        self._guests.add(guest)
        self._empty.clear()
        self._accounts[guest.connection].dismiss = guest.dismiss

    def logged_in(self, guest: Guest, user: str) -> None:
        """It is logged in."""
        account = self._accounts.get(guest.connection)
        if account is not None:
            account.logged_in(user, guest.recorder.credential)

    def interrupted(self, guest: Guest) -> None:
        """It ends while its client has files open."""
        account = self._accounts.get(guest.connection)
        if account is not None:
            account.interrupted()

    def left(self, guest: Guest, misdeed: str | None) -> None:
        """A connection is gone; `misdeed` is what the client did wrong."""
        self._guests.discard(guest)
        self._tell_ended(guest.connection, misdeed)
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

    def sessions(self) -> Iterator[tuple[Recorder, Iterable[FileHandle]]]:
        """Who is logged in, and what they have open."""
        return ((guest.recorder, guest.open_files()) for guest in self._guests if guest.logged_in)

    async def _emptied(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def log_has_room(self, user: str | None) -> None:
        """Wait until the access log has room for lines of `user`; None: of nobody in particular."""
        while self.access_log.congested(user):
            self._log_room.clear()
            await self._log_room.wait()

    def _log_got_room(self) -> None:
        # Called on the log's own thread.
        self._loop.call_soon_threadsafe(self._continue)

    def _continue(self) -> None:
        self._log_room.set()
        for guest in tuple(self._guests):
            for channel in tuple(guest.channels):
                channel.pump()


def _options(server: SshServer, keys: Sequence[HostKey]) -> asyncssh.SSHServerConnectionOptions:
    options = asyncssh.SSHServerConnectionOptions(
        config=None,
        server_factory=lambda: Guest(server),
        server_version=SOFTWARE_VERSION,
        server_host_keys=host_keys.load(keys),
        send_server_host_keys=True,
        gss_host=None,
        x509_trusted_certs=None,
        kex_algs=algorithms.KEY_EXCHANGES,
        encryption_algs=server.offers.preferred.ciphers,
        mac_algs=server.offers.preferred.macs,
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
