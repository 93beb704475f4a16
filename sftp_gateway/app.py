"""The composition root: settings become objects, and the objects a running gateway."""

from __future__ import annotations

import asyncio
import functools
import logging
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

from sftp_gateway import __version__
from sftp_gateway.auth import Authenticator
from sftp_gateway.errors import ConfigurationError, FileSystemError, ProtocolError
from sftp_gateway.first_start import WORKER_KEY, set_up
from sftp_gateway.inspection import Findings, inspect
from sftp_gateway.observability import events
from sftp_gateway.observability.access_log import AccessLog
from sftp_gateway.observability.http import Health, ObservabilityServer
from sftp_gateway.observability.metrics import Metrics
from sftp_gateway.observability.sinks import FileSink, Sink, StreamSink
from sftp_gateway.process.runner import StopSignal, run
from sftp_gateway.process.sockets import bind
from sftp_gateway.protocol.constants import ANNOUNCED_READ_LENGTH, MAX_READ_LENGTH
from sftp_gateway.server import algorithms
from sftp_gateway.server.dispatch import Dispatcher
from sftp_gateway.server.handles import HandleTable
from sftp_gateway.server.health import ShareMonitor
from sftp_gateway.server.lanes import Lanes
from sftp_gateway.server.packets import compatibility
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp import Channel, SftpSession
from sftp_gateway.server.ssh import Limits, SshServer
from sftp_gateway.settings import Settings
from sftp_gateway.vfs.attributes import Presentation
from sftp_gateway.vfs.beneath import choose_finder
from sftp_gateway.vfs.share import Links, Share
from sftp_gateway.vfs.tree import Tree

_log = logging.getLogger(__name__)

#: Seconds that the event loop may take to answer a health check.
_HEALTH_PATIENCE: Final = 2.0

#: Seconds that a stopping gateway gives the access log to be written.
_LOG_PATIENCE: Final = 5.0


def serve(settings: Settings, *, say: Callable[[str], None]) -> None:
    """Serve until a signal says stop; ends the process with status 0.

    `say` gets lines for people. Raises ConfigurationError before a port is bound.
    """
    if settings.auto_setup:
        try:
            set_up(settings, gateway=None, say=say)
        except OSError as error:
            raise ConfigurationError(
                [
                    f"{error.filename}: cannot be made: {error.strerror}; set auto_setup = false "
                    "to start without making anything"
                ]
            ) from error
    findings = asyncio.run(inspect(settings))
    if findings.mistakes:
        raise ConfigurationError(findings.mistakes)
    for warning in findings.warnings:
        say(f"warning: {warning}")
    run(lambda stop: _serve(settings, findings, stop, say))


async def _serve(
    settings: Settings, findings: Findings, stop: StopSignal, say: Callable[[str], None]
) -> None:
    gateway = Gateway(settings, findings)
    try:
        port = await gateway.start()
        for line in mount_help(settings, port):
            say(line)
        await stop.wait()
        await gateway.stop(stop.name)
    finally:
        gateway.close()


class Gateway:
    """A whole gateway in this process. Made on the event loop that it runs on."""

    def __init__(self, settings: Settings, findings: Findings) -> None:
        """Raises ConfigurationError for what can be told only by trying."""
        self._settings = settings
        self._log = _access_log(settings)
        self._metrics = Metrics(version=__version__, build=_build())
        self._metrics.watch_access_log(self._log)
        self._presentation = Presentation(uid=settings.show_uid, gid=settings.show_gid)
        self._shares = _shares(settings, self._presentation)
        self._started = int(time.time())
        self._lanes = Lanes(share.name for share in self._shares)
        self._metrics.watch_lanes(self._lanes.depths)
        self._monitor = ShareMonitor(
            shares=self._shares, lanes=self._lanes, changed=self._metrics.share_up
        )
        self._server = SshServer(
            host_keys=findings.host_keys,
            ciphers=algorithms.ciphers(settings.ciphers, has_aes=algorithms.processor_has_aes()),
            own_record_layer=settings.record_layer == "own" and not compatibility.changed(),
            limits=Limits(
                login_grace_time=settings.login_grace_time,
                max_auth_tries=settings.max_auth_tries,
                keepalive_interval=settings.keepalive_interval,
                keepalive_count_max=settings.keepalive_count_max,
                rekey_limit=settings.rekey_limit,
            ),
            authenticator=Authenticator(findings.credentials, clock=lambda: datetime.now(UTC)),
            access_log=self._log,
            metrics=self._metrics,
            open_sftp=self._open_sftp,
        )
        self._http: ObservabilityServer | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> int:
        """Begin to serve; return the port. Raises ConfigurationError where a port is taken."""
        settings = self._settings
        sockets = bind(settings.host, settings.port)
        await self._monitor.look()
        loop = asyncio.get_running_loop()
        self._http = ObservabilityServer(
            host=settings.metrics_host,
            port=settings.metrics_port,
            metrics=self._metrics,
            probe=functools.partial(self._probe, loop),
        )
        self._http.start()
        await self._server.listen(sockets)
        self._tasks.append(asyncio.create_task(self._monitor.run()))
        address, port = sockets[0].getsockname()[:2]
        self._log.emit(events.ServerStarted(version=__version__, address=address, port=port))
        return int(port)

    async def stop(self, signal: str) -> None:
        """Stop serving, as SshServer.drain tells."""
        self._log.emit(events.ServerStopping(signal=signal))
        await self._server.drain(self._settings.drain_timeout)
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._log.emit(events.ServerStopped())

    def close(self) -> None:
        """Let go of everything; the access log is written out first."""
        if self._http is not None:
            self._http.close()
        self._log.close(_LOG_PATIENCE)
        self._lanes.close()

    def _open_sftp(self, channel: Channel, recorder: Recorder) -> SftpSession:
        """The SFTP session of a user who has logged in on `channel`."""
        tree = self._tree_of(recorder.session.user or "")
        handles = HandleTable(capacity=self._settings.max_handles)
        return SftpSession(
            channel=channel,
            handles=handles,
            make_dispatcher=functools.partial(
                Dispatcher,
                tree=tree,
                handles=handles,
                made_up_statvfs=self._monitor.statvfs_of,
            ),
            lanes=self._lanes,
            recorder=recorder,
            log_congested=lambda: self._log.congested,
            failed=functools.partial(_failed, recorder),
            max_read_length=_max_read_length(recorder.session.client_version or ""),
        )

    def _tree_of(self, user: str) -> Tree:
        granted = self._settings.users[user].shares
        shares = [s for s in self._shares if granted == "*" or s.name in granted]
        return Tree(
            user=user,
            shares=shares,
            withheld=[s.name for s in self._shares if s not in shares],
            presentation=self._presentation,
            time=self._started,
        )

    def _probe(self, loop: asyncio.AbstractEventLoop) -> Health:
        """The health, asked of the event loop by another thread; raises TimeoutError."""
        return asyncio.run_coroutine_threadsafe(self._health(), loop).result(_HEALTH_PATIENCE)

    async def _health(self) -> Health:
        problems = self._monitor.problems
        return Health(
            alive=True,
            ready=not self._server.stopping and not any(problems.values()),
            details={name: problem or "ok" for name, problem in problems.items()},
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


def _access_log(settings: Settings) -> AccessLog:
    options = settings.access_log
    sinks: list[Sink] = []
    if options.stdout:
        sinks.append(StreamSink(sys.stdout.fileno()))
    if options.file is not None:
        sinks.append(FileSink(options.file))
    return AccessLog(
        sinks=sinks, level=options.level, overflow=options.overflow, capacity=options.capacity
    )


def _shares(settings: Settings, presentation: Presentation) -> list[Share]:
    finder = choose_finder()
    shares = []
    for name, options in settings.shares.items():
        try:
            share = Share(
                name=name,
                root=options.path,
                links=Links(options.links),
                presentation=presentation,
                finder=finder,
            )
        except OSError as error:
            raise ConfigurationError(
                [f"shares.{name}.path: {options.path} cannot be opened: {error.strerror}"]
            ) from error
        shares.append(share)
    return shares


def _build() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "asyncssh": version("asyncssh"),
        "cryptography": version("cryptography"),
    }


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
