"""What one worker runs: settings become the service that its connections get."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from sftp_gateway.app.access_log import make_access_log
from sftp_gateway.auth import Authenticator
from sftp_gateway.config.shares import open_folders, unreadable
from sftp_gateway.config.snapshot import ConfigSnapshot, CredentialSnapshot
from sftp_gateway.errors import FileSystemError, ProtocolError
from sftp_gateway.observability.access_log.relay import RelaySink
from sftp_gateway.observability.access_log.sinks import Sink
from sftp_gateway.observability.history.channel import HistoryChannel, HistorySink
from sftp_gateway.observability.metrics.process_metrics import Metrics
from sftp_gateway.observability.metrics.shared_memory import SharedValues
from sftp_gateway.process import worker
from sftp_gateway.process.entrypoints import WorkerResources
from sftp_gateway.process.observer import LOG_TIMEOUT
from sftp_gateway.process.runner import descriptor_limit
from sftp_gateway.protocol.constants import ANNOUNCED_READ_LENGTH, MAX_READ_LENGTH
from sftp_gateway.sandbox.policy import confine_worker
from sftp_gateway.server.exec.session import CommandSession
from sftp_gateway.server.handles import HandleTable
from sftp_gateway.server.health import DiskErrors, ShareMonitor
from sftp_gateway.server.io_pools import THREADS, IoPools, Pool
from sftp_gateway.server.limits.bandwidth import BandwidthLimiter
from sftp_gateway.server.limits.quotas import DescriptorAllotment, HandleOwner, Quotas, divide
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.session_reports import SessionReporter
from sftp_gateway.server.sftp import owners
from sftp_gateway.server.sftp.checksums import Checksums
from sftp_gateway.server.sftp.client_versions import reports_read_errors
from sftp_gateway.server.sftp.context import Channel, SessionContext
from sftp_gateway.server.sftp.owners import OwnerNames, Owners
from sftp_gateway.server.sftp.session import SftpSession
from sftp_gateway.server.ssh import algorithms
from sftp_gateway.server.ssh.callbacks import ConnectionCallbacks
from sftp_gateway.server.ssh.context import ConnectionLimits, ServerContext
from sftp_gateway.server.ssh.negotiation import Offers
from sftp_gateway.server.ssh.server import SshServer
from sftp_gateway.settings import Settings, UserSettings
from sftp_gateway.system.children import redirect_to_null
from sftp_gateway.vfs.attributes import AttributePolicy, Modes
from sftp_gateway.vfs.path_resolution import PathResolver, choose_resolver
from sftp_gateway.vfs.share import NO_DESCRIPTOR, Links, Share
from sftp_gateway.vfs.tree import Tree

_log = logging.getLogger(__name__)


def run_worker(snapshot: ConfigSnapshot, resources: WorkerResources) -> None:
    """Run a worker; exits the process."""
    redirect_to_null(sys.stdout.fileno())

    def make() -> WorkerService:
        settings = snapshot.settings
        folders = open_folders({name: share.path for name, share in settings.shares.items()})
        owner_names = owners.read()
        landlock = confine_worker(settings, folders=folders)
        return WorkerService(
            snapshot,
            SharedValues(resources.memory),
            log=RelaySink(resources.log),
            history_channel=resources.history,
            landlock=landlock,
            folders=folders,
            owner_names=owner_names,
        )

    worker.work(resources.control, make)


class WorkerService:
    """Serves the connections of one worker. Made on the event loop that it runs on."""

    def __init__(
        self,
        snapshot: ConfigSnapshot,
        values: SharedValues,
        *,
        log: Sink,
        history_channel: HistoryChannel,
        folders: Mapping[str, int],
        owner_names: OwnerNames,
        landlock: int = 0,
    ) -> None:
        """`log` and `history_channel` lead to the observer; `landlock` is the ABI in use.

        `folders` has the descriptors of the shares' folders, but for shares that are unavailable.
        Raises ConfigurationError for what shows only when it is tried.
        """
        self._settings = settings = snapshot.settings
        self._users = settings.users
        findings = snapshot.findings
        sink = HistorySink(history_channel) if settings.history.enabled else None
        self._log = make_access_log(settings, [log] if sink is None else [log, sink])
        self._values = values
        self._metrics = Metrics(values)
        self._metrics.own_record_layer(snapshot.record_layer == "own")
        self._metrics.landlock_abi(landlock)
        self._confined = landlock > 0
        self._metrics.watch_access_log(self._log)
        if sink is not None:
            self._metrics.watch_history(lambda: sink.dropped)
        self._attribute_policy = AttributePolicy(
            uid=settings.show_uid, gid=settings.show_gid, modes=Modes(settings.show_mode)
        )
        resolver = choose_resolver()
        self._shares = _shares(settings, self._attribute_policy, resolver, folders)
        division = allot_descriptors(settings, resolver)
        #: Connections that there are descriptors for.
        self.max_connections = division.connections
        self._quotas = Quotas(division, max_handles=settings.max_handles)
        self._bandwidths = _bandwidth_limiters(settings.users)
        self._started = int(time.time())
        errors = DiskErrors(count=self._metrics.disk_error)
        self._pools = IoPools(
            (share.name for share in self._shares),
            timeout=settings.disk_timeout,
            on_done=errors.record,
        )
        self._metrics.watch_pools(self._pools.depths)
        self._checksums = Checksums(self._pools)
        self._owner_names = owner_names
        self._monitor = ShareMonitor(
            shares=self._shares,
            pools=self._pools,
            errors=errors,
            probed=self._metrics.share_up,
            unreadable=unreadable,
        )
        self._server = SshServer(
            ServerContext(
                offers=Offers(settings.ciphers, has_aes=algorithms.processor_has_aes()),
                signatures=algorithms.signatures(nist_curves=settings.nist_curves),
                own_packet_layer=snapshot.record_layer == "own",
                limits=ConnectionLimits(
                    login_grace_time=settings.login_grace_time,
                    max_auth_tries=settings.max_auth_tries,
                    keepalive_interval=settings.keepalive_interval,
                    keepalive_count_max=settings.keepalive_count_max,
                    rekey_limit=settings.rekey_limit,
                    idle_timeout=settings.idle_timeout,
                ),
                authenticator=_authenticator(snapshot.credentials),
                end_sessions=settings.end_sessions_of_removed_keys,
                access_log=self._log,
                metrics=self._metrics,
                sessions=self,
            ),
            keys=findings.host_keys,
        )
        self._history_channel = history_channel
        self._session_reporter = SessionReporter(
            sessions=self._server.sessions,
            sent=lambda: self._metrics.sent,
            send=history_channel.send,
        )
        self._background: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Prepare for connections."""
        await self._monitor.probe()
        tasks = [self._monitor.run()]
        if self._settings.status.enabled:
            tasks.append(self._session_reporter.run())
        self._background = [asyncio.create_task(task) for task in tasks]

    async def serve(self, connection: socket.socket, callbacks: ConnectionCallbacks) -> None:
        """Serve a connection (SshServer.serve)."""
        await self._server.serve(connection, callbacks)

    def set_session_fraction(self, user: str, fraction: float) -> None:
        """This worker has this fraction, 0 to 1, of the user's sessions."""
        if user in self._bandwidths:
            rate = self._bandwidths[user].set_share(fraction)
            self._metrics.bandwidth(user, rate)

    def reload_credentials(self, credentials: CredentialSnapshot) -> None:
        """Accept only these from now on (SshServer.reload_credentials)."""
        self._server.reload_credentials(
            authenticator=_authenticator(credentials),
            keys=credentials.host_keys,
            end_sessions=credentials.end_sessions,
        )
        added = {name: credentials.users[name] for name in credentials.users.keys() - self._users}
        kept = {name: b for name, b in self._bandwidths.items() if name in credentials.users}
        self._bandwidths = kept | _bandwidth_limiters(added)
        self._users = credentials.users

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a stage of its own
        """Stop serving (SshServer.drain)."""
        await self._server.drain(timeout)
        for task in self._background:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def publish(self) -> None:
        """Publish the metrics."""
        self._metrics.publish()

    def share_problems(self) -> dict[str, str]:
        """Why shares cannot be read, by name."""
        return {name: problem for name, problem in self._monitor.problems.items() if problem}

    def outdated_shares(self) -> list[str]:
        """Shares with another mount at their path than Landlock lets this worker read, or than its
        threads wait for."""
        return [
            share.name
            for share in self._shares
            if (share.moved and self._confined) or share.name in self._monitor.remounted
        ]

    def close(self) -> None:
        """Write the access log out, and close everything."""
        self._log.close(LOG_TIMEOUT)
        self._metrics.publish()
        for message in self._session_reporter.messages():
            self._history_channel.send(message)
        self._values.close()
        self._pools.close()

    def open_sftp(self, channel: Channel, recorder: Recorder) -> SftpSession:
        """The SFTP session of a logged-in user on `channel`."""
        client_version = recorder.session.client_version or ""
        return SftpSession(
            self._context(channel, recorder),
            max_read_length=_max_read_length(client_version),
            status_shares=self._status_shares(client_version),
        )

    def open_command(self, channel: Channel, recorder: Recorder) -> CommandSession:
        """The session of a command on `channel`."""
        return CommandSession(self._context(channel, recorder))

    def _context(self, channel: Channel, recorder: Recorder) -> SessionContext:
        session = recorder.session
        user = session.user or ""
        owner = HandleOwner(user=user, connection=session.session)
        return SessionContext(
            channel=channel,
            tree=self._tree_of(recorder),
            handles=HandleTable(quotas=self._quotas, owner=owner),
            pools=self._pools,
            checksums=self._checksums,
            owners=Owners(self._owner_names),
            recorder=recorder,
            log_congested=functools.partial(self._log.congested, user),
            virtual_statvfs=self._monitor.statvfs_of,
            report_bug=functools.partial(_failed, recorder),
            bandwidth=self._bandwidths.get(user),
        )

    def _status_shares(self, client_version: str) -> Collection[str]:
        """The shares for whose failed READs this client gets a status."""
        known = reports_read_errors(client_version)
        return [
            name
            for name, share in self._settings.shares.items()
            if known or share.read_errors == "status"
        ]

    def _tree_of(self, recorder: Recorder) -> Tree:
        user = recorder.session.user or ""
        granted = self._users[user].shares
        shares = [s for s in self._shares if granted == "*" or s.name in granted]
        return Tree(
            user=user,
            shares=shares,
            ungranted=[s.name for s in self._shares if s not in shares],
            attribute_policy=self._attribute_policy,
            time=self._started,
        )


def _bandwidth_limiters(users: Mapping[str, UserSettings]) -> dict[str, BandwidthLimiter]:
    return {
        name: BandwidthLimiter(user.bandwidth_limit)
        for name, user in users.items()
        if user.bandwidth_limit is not None
    }


def _authenticator(credentials: CredentialSnapshot) -> Authenticator:
    return Authenticator(
        credentials.credentials, trust=credentials.trust, clock=lambda: datetime.now(UTC)
    )


def _shares(
    settings: Settings,
    attribute_policy: AttributePolicy,
    resolver: PathResolver,
    folders: Mapping[str, int],
) -> list[Share]:
    return [
        Share(
            name=name,
            root=options.path,
            folder=folders.get(name, NO_DESCRIPTOR),
            links=Links.KEEP if options.links == "inside" else Links(options.links),
            attribute_policy=attribute_policy,
            resolver=resolver,
        )
        for name, options in settings.shares.items()
    ]


def allot_descriptors(settings: Settings, resolver: PathResolver) -> DescriptorAllotment:
    """How a worker divides its descriptors among connections, handles and threads."""
    # A thread that waits for a disk holds the descriptors of its lookup, and of one within it
    # (READLINK, the share's own check). The event loop counts as one more thread.
    threads = 1 + len(settings.shares) * (THREADS[Pool.METADATA] + THREADS[Pool.PROBE])
    return divide(
        descriptor_limit(),
        connections=settings.max_connections,
        temporary=threads * (resolver.descriptors + 2) + len(settings.shares),
    )


def _max_read_length(client_version: str) -> int:
    """Bytes of data in the longest answer to one READ.

    OpenSSH's clients disconnect on a packet of more than 256 KiB with its header, and yet request
    256 KiB when told to (`sftp -B 262144`).
    """
    return ANNOUNCED_READ_LENGTH if "OpenSSH" in client_version else MAX_READ_LENGTH


def _failed(recorder: Recorder, error: Exception) -> None:
    """Log the details, which clients do not get."""
    session = recorder.session
    if isinstance(error, ProtocolError | OSError | FileSystemError):
        _log.warning("session %s of %s: %s", session.session, session.user, error)
    else:
        _log.error("session %s of %s", session.session, session.user, exc_info=error)
