"""The composition root: settings become objects, and the objects a running gateway."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from sftp_gateway import __version__
from sftp_gateway.app import observer as observing
from sftp_gateway.auth import Authenticator
from sftp_gateway.config import detached
from sftp_gateway.config import shares as share_folders
from sftp_gateway.config import snapshot as configurations
from sftp_gateway.config.bootstrap import WORKER_KEY, set_up
from sftp_gateway.config.snapshot import Access, Configuration
from sftp_gateway.errors import ConfigurationError, FileSystemError, ProtocolError
from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.observability.access_log.relay import LogWriter, RelaySink
from sftp_gateway.observability.access_log.sinks import FileSink, Sink, StreamSink, check_file
from sftp_gateway.observability.access_log.terminal import TerminalSink, is_for_people
from sftp_gateway.observability.history.channel import HistoryChannel, HistorySink
from sftp_gateway.observability.metrics.process_metrics import Metrics
from sftp_gateway.observability.metrics.shared_memory import Memory, SharedValues
from sftp_gateway.observability.web import server as http_server
from sftp_gateway.process import observer, worker
from sftp_gateway.process.runner import descriptor_limit, raise_descriptor_limit
from sftp_gateway.process.supervisor import control
from sftp_gateway.process.supervisor.supervisor import Supervisor
from sftp_gateway.protocol.constants import ANNOUNCED_READ_LENGTH, MAX_READ_LENGTH
from sftp_gateway.sandbox import policy as confinement
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
from sftp_gateway.settings import Settings
from sftp_gateway.system import children, occupancy, sockets
from sftp_gateway.system.dirfd import Held
from sftp_gateway.vfs.attributes import AttributePolicy, Modes
from sftp_gateway.vfs.path_resolution import PathResolver, choose_resolver
from sftp_gateway.vfs.share import NO_DESCRIPTOR, Links, Share
from sftp_gateway.vfs.tree import Tree

_log = logging.getLogger(__name__)


def serve(
    load: Callable[[], Settings], *, config_file: Path, report: Callable[[str], None]
) -> None:
    """Serve until a signal says stop.

    `load` reads the settings, now and again when a signal asks for it or `config_file`, where they
    are, has changed; `report` gets lines for people. Raises ConfigurationError before anything is
    served.
    """
    configuration = configurations.read(
        load, config_file, prepare=functools.partial(_set_up, report=report)
    )
    settings = configuration.settings
    with settings.origins.locate_errors():
        _check_log(settings)
    for warning in configuration.warnings:
        report(f"warning: {warning}")
    if configuration.findings.away:
        served = len(settings.shares) - len(configuration.findings.away)
        report(
            f"error: {served} of {len(settings.shares)} shares can be read; each of the others is "
            "served as soon as it can be"
        )
    if settings.access_log.stdout and _are_one_file(sys.stdout.fileno(), sys.stderr.fileno()):
        report(
            "warning: access_log: standard error goes to the same file as the log on standard "
            "output, so that a worker could change the log; send them to different files"
        )
    lock = occupancy.hold(settings.keys_dir)
    raise_descriptor_limit()
    if (
        room := _allot_descriptors(settings, choose_resolver()).connections
    ) < settings.max_connections:
        report(
            f"warning: {descriptor_limit()} open files are enough for {room} connections in each "
            f"worker, and max_connections is {settings.max_connections}: raise the limit where the "
            "gateway is started (ulimit -Hn, LimitNOFILE=, ulimits)"
        )
    with (
        settings.origins.locate_errors(),
        sockets.listen(settings.host, settings.port) as listener,
        http_server.listen(settings.metrics_host, settings.metrics_port) as http_listener,
        _control_socket(settings, report) as control_listener,
    ):
        confinement.confine_all(settings.landlock)
        Supervisor(
            program=Program(load=load, config_file=config_file, report=report, lock=lock),
            plan=configuration,
            listener=listener,
            http_listener=http_listener,
            control_listener=control_listener,
        ).run()


@contextmanager
def _control_socket(
    settings: Settings, report: Callable[[str], None]
) -> Iterator[socket.socket | None]:
    """The control socket, while the gateway runs; None where it cannot be made."""
    try:
        listener = control.listen(settings)
    except OSError as error:
        report(
            f"warning: {control.path_of(settings)}: cannot be made: {error.strerror}; "
            "`sftp-gateway bans` does not work"
        )
        yield None
        return
    with listener:
        yield listener  # its name stays: the next gateway may have another in its place by then


def _are_one_file(*descriptors: int) -> bool:
    """Whether these lead to one regular file; it is different with pipes, which only grow."""
    found = [os.fstat(each) for each in descriptors]
    return stat.S_ISREG(found[0].st_mode) and os.path.samestat(*found)


def _set_up(settings: Settings, *, report: Callable[[str], None]) -> None:
    occupancy.check(settings.keys_dir)
    if settings.auto_setup:
        try:
            set_up(settings, gateway=None, report=report)
        except OSError as error:
            raise ConfigurationError(
                [
                    f"{error.filename}: cannot be made: {error.strerror}; set auto_setup = false "
                    "to start without making anything"
                ]
            ) from error


class Program:
    """What the processes of a gateway do."""

    def __init__(
        self,
        *,
        load: Callable[[], Settings],
        config_file: Path,
        report: Callable[[str], None],
        lock: Held | None = None,
    ) -> None:
        """`lock` is the supervisor's alone."""
        self._load = load
        self._config_file = config_file
        self.report = report
        self._lock = lock
        self._history_channel = HistoryChannel()

    def load(self, running: Configuration, hanging: Collection[str]) -> Configuration:
        """The configuration as it is now, as `read_again` tells."""
        found = configurations.read_again(self._load, self._config_file, running, hanging=hanging)
        if found.settings.access_log != running.settings.access_log:
            with found.settings.origins.locate_errors():
                _check_log(found.settings)
        return found

    def greet(self, configuration: Configuration, port: int) -> None:
        """Tell people how to mount what is served."""
        for line in mount_help(configuration.settings, port):
            self.report(line)
        if line := observing.status_address(configuration):
            self.report(line)

    def work(
        self,
        configuration: Configuration,
        control: socket.socket,
        values: SharedValues,
        log: socket.socket,
    ) -> None:
        """Be a worker."""
        self._let_go_of_lock()
        self._history_channel.only_send()
        children.redirect_to_null(sys.stdout.fileno())

        def make() -> Gateway:
            settings = configuration.settings
            paths = {name: share.path for name, share in settings.shares.items()}
            folders = detached.open_folders(paths, seconds=share_folders.RUNNING)
            owner_names = owners.read()
            version = confinement.confine_worker(settings, folders=folders)
            return Gateway(
                configuration,
                values,
                log=RelaySink(log),
                history_channel=self._history_channel,
                landlock=version,
                folders=folders,
                owner_names=owner_names,
            )

        worker.work(control, make)

    def observe(
        self,
        configuration: Configuration,
        control: socket.socket,
        listener: socket.socket,
        memories: dict[str, Memory],
        logs: Sequence[socket.socket],
    ) -> None:
        """Be the observer."""
        self._let_go_of_lock()
        log_writer = LogWriter(_log_outputs(configuration.settings))
        for log in logs:
            log_writer.add(log)
        observing.observe(
            configuration,
            control,
            listener=listener,
            memories=memories,
            history_channel=self._history_channel,
            log_writer=log_writer,
            make_log=functools.partial(_access_log, configuration.settings),
            report=self.report,
        )

    def _let_go_of_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock.descriptor)
            self._lock = None


class Gateway:
    """What serves in one worker. Made on the event loop that it runs on."""

    def __init__(
        self,
        configuration: Configuration,
        values: SharedValues,
        *,
        log: Sink,
        history_channel: HistoryChannel,
        folders: Mapping[str, int],
        owner_names: OwnerNames,
        landlock: int = 0,
    ) -> None:
        """`log` and `history_channel` lead to the observer; `landlock` is the ABI in use.

        `folders` are those of the shares, open; a share that is missing there is away.

        Raises ConfigurationError for what can be told only by trying.
        """
        self._settings = settings = configuration.settings
        self._users = settings.users
        findings = configuration.findings
        sink = HistorySink(history_channel) if settings.history.enabled else None
        self._log = _access_log(settings, [log] if sink is None else [log, sink])
        self._values = values
        self._metrics = Metrics(values)
        self._metrics.own_record_layer(configuration.record_layer == "own")
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
        division = _allot_descriptors(settings, resolver)
        #: How many connections there are descriptors for.
        self.max_connections = division.connections
        self._quotas = Quotas(division, max_handles=settings.max_handles)
        self._bandwidths = {
            name: BandwidthLimiter(user.bandwidth_limit)
            for name, user in settings.users.items()
            if user.bandwidth_limit is not None
        }
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
            unreadable=share_folders.unreadable,
        )
        self._server = SshServer(
            ServerContext(
                offers=Offers(settings.ciphers, has_aes=algorithms.processor_has_aes()),
                signatures=algorithms.signatures(nist_curves=settings.nist_curves),
                own_packet_layer=configuration.record_layer == "own",
                limits=ConnectionLimits(
                    login_grace_time=settings.login_grace_time,
                    max_auth_tries=settings.max_auth_tries,
                    keepalive_interval=settings.keepalive_interval,
                    keepalive_count_max=settings.keepalive_count_max,
                    rekey_limit=settings.rekey_limit,
                    idle_timeout=settings.idle_timeout,
                ),
                authenticator=_authenticator(configuration.access),
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
        """Get ready for connections."""
        await self._monitor.probe()
        tasks = [self._monitor.run()]
        if self._settings.status.enabled:
            tasks.append(self._session_reporter.run())
        self._background = [asyncio.create_task(task) for task in tasks]

    async def adopt(self, connection: socket.socket, callbacks: ConnectionCallbacks) -> None:
        """Serve a connection, as SshServer.serve tells."""
        await self._server.serve(connection, callbacks)

    def has_part(self, user: str, part: float) -> None:
        """So much of the user's sessions, 0 to 1, is in this worker."""
        if user in self._bandwidths:
            rate = self._bandwidths[user].set_share(part)
            self._metrics.bandwidth(user, rate)

    def take(self, access: Access) -> None:
        """Let in who may come in by `access` from now on, as SshServer.reload_credentials tells."""
        self._server.reload_credentials(
            authenticator=_authenticator(access),
            keys=access.host_keys,
            end_sessions=access.end_sessions,
        )
        self._users = access.users

    async def drain(self, seconds: float) -> None:
        """Stop serving, as SshServer.drain tells."""
        await self._server.drain(seconds)
        for task in self._background:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def publish(self) -> None:
        """Hand on the metrics."""
        self._metrics.publish()

    def problems(self) -> dict[str, str]:
        """What is wrong with the shares that cannot be read, by name."""
        return {name: problem for name, problem in self._monitor.problems.items() if problem}

    def outdated(self) -> list[str]:
        """Shares at whose paths something else is mounted than what Landlock lets this one read,
        or than what its threads wait for."""
        return [
            share.name
            for share in self._shares
            if (share.moved and self._confined) or share.name in self._monitor.remounted
        ]

    def close(self) -> None:
        """Let go of everything; the access log is written out first."""
        self._log.close(observer.LOG_PATIENCE)
        self._metrics.publish()
        for message in self._session_reporter.messages():
            self._history_channel.send(message)
        self._values.close()
        self._pools.close()

    def open_sftp(self, channel: Channel, recorder: Recorder) -> SftpSession:
        """The SFTP session of a user who has logged in on `channel`."""
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
        """The shares whose failed READs this client gets a status for."""
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


def mount_help(settings: Settings, port: int) -> list[str]:
    """Lines that tell how to mount the gateway that listens on `port`."""
    user = next(iter(settings.users), "USER")
    options = ["StrictHostKeyChecking=accept-new"]
    if (settings.keys_dir / WORKER_KEY).exists():
        key = settings.keys_dir / WORKER_KEY
        options.append(f"IdentityFile={key if key.is_absolute() else f'$PWD/{key}'}")
    options += ["reconnect", "ServerAliveInterval=15", "ServerAliveCountMax=3"]
    return [
        f"sftp-gateway {__version__} serves {len(settings.shares)} shares. Mount them with:",
        "",
        f"  mkdir -p ~/main-server && sshfs -p {settings.public_port or port} "
        f'-o "{",".join(options)}" {user}@{settings.public_host}:/home/{user} ~/main-server',
        "",
        "(in this folder; on a worker, copy the key there and name this machine)",
    ]


def _authenticator(access: Access) -> Authenticator:
    return Authenticator(access.credentials, trust=access.trust, clock=lambda: datetime.now(UTC))


def _access_log(settings: Settings, sinks: Sequence[Sink]) -> AccessLog:
    options = settings.access_log
    return AccessLog(
        sinks=sinks, level=options.level, overflow=options.overflow, capacity=options.capacity
    )


def _log_outputs(settings: Settings) -> list[Sink]:
    """Where the observer writes the log of all."""
    options = settings.access_log
    sinks: list[Sink] = []
    if options.stdout:
        people = is_for_people(sys.stdout)
        sinks.append(TerminalSink(sys.stdout) if people else StreamSink(sys.stdout.fileno()))
    if options.file is not None:
        sinks.append(FileSink(options.file))
    return sinks


def _check_log(settings: Settings) -> None:
    """Raises ConfigurationError if the log goes nowhere else than to a file, which cannot be
    written."""
    if settings.access_log.file is not None and not settings.access_log.stdout:
        check_file(settings.access_log.file)


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


def _allot_descriptors(settings: Settings, resolver: PathResolver) -> DescriptorAllotment:
    """How a worker divides its descriptors."""
    # A thread that waits for a disk keeps those of its look-up, and of one within that (READLINK,
    # the share's own check). The event loop is one thread more.
    threads = 1 + len(settings.shares) * (THREADS[Pool.METADATA] + THREADS[Pool.PROBE])
    return divide(
        descriptor_limit(),
        connections=settings.max_connections,
        temporary=threads * (resolver.descriptors + 2) + len(settings.shares),
    )


def _max_read_length(client_version: str) -> int:
    """How much one READ is answered with at most.

    OpenSSH's own clients end the connection over a packet of more than 256 KiB, header included,
    and yet ask for 256 KiB if told to (`sftp -B 262144`).
    """
    return ANNOUNCED_READ_LENGTH if "OpenSSH" in client_version else MAX_READ_LENGTH


def _failed(recorder: Recorder, error: Exception) -> None:
    """Something went wrong that no client is told of in detail: say it in our own log."""
    session = recorder.session
    if isinstance(error, ProtocolError | OSError | FileSystemError):
        _log.warning("session %s of %s: %s", session.session, session.user, error)
    else:
        _log.error("session %s of %s", session.session, session.user, exc_info=error)
