"""What the observer runs: the access log, the history, and the status page."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import platform
import stat
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from sftp_gateway import __version__
from sftp_gateway.app.access_log import log_outputs, make_access_log
from sftp_gateway.config.bootstrap import token_file
from sftp_gateway.config.snapshot import ConfigSnapshot
from sftp_gateway.observability.access_log import relay, rotation
from sftp_gateway.observability.access_log.relay import LogWriter, RelaySink
from sftp_gateway.observability.access_log.sinks import Sink
from sftp_gateway.observability.gateway_state import GatewayState
from sftp_gateway.observability.history.channel import HistoryChannel, HistorySink
from sftp_gateway.observability.history.queries import History
from sftp_gateway.observability.history.session_registry import SessionRegistry
from sftp_gateway.observability.history.writer import HistoryWriter, open_store
from sftp_gateway.observability.metrics.exposition import Exposition
from sftp_gateway.observability.metrics.shared_memory import SharedValues
from sftp_gateway.observability.web.routes import Application, Request, Response
from sftp_gateway.process import observer
from sftp_gateway.process.entrypoints import ObserverResources
from sftp_gateway.sandbox.policy import confine_history
from sftp_gateway.server.io_pools import lower_priority
from sftp_gateway.settings import Settings, variable
from sftp_gateway.system.dirfd import Folder

#: MiB of a history in a temporary folder, which in a container is in memory.
_MAX_TEMPORARY_SIZE: Final = 32


def run_observer(
    snapshot: ConfigSnapshot, resources: ObserverResources, *, report: Callable[[str], None]
) -> None:
    """Run the observer until the supervisor closes its socket."""
    lower_priority()  # workers come first; a slow log only slows the user who causes it
    settings, memories = snapshot.settings, resources.memories
    values = SharedValues(memories[observer.OBSERVER])
    registry = SessionRegistry()
    log_writer = LogWriter(log_outputs(settings))
    sender, receiver = relay.socket_pair()
    for log in (*resources.logs, receiver):
        log_writer.add(log)
    sinks: list[Sink] = [RelaySink(sender)]
    if settings.history.enabled:
        sinks.append(HistorySink(resources.history))
    file = history_file(settings, report)
    observer.observe(
        resources.control,
        listener=resources.listener,
        watched=snapshot.fingerprints if settings.auto_reload else None,
        access_log=make_access_log(settings, sinks),
        log_writer=log_writer,
        values=values,
        memories=memories,
        make_exposition=functools.partial(
            Exposition,
            memories=lambda: tuple(memories.values()),  # workers are added meanwhile
            version=__version__,
            build=_build(),
        ),
        make_status_app=functools.partial(_status_app, snapshot, registry, file),
        history=_writer(
            settings,
            history_channel=resources.history,
            registry=registry,
            file=file,
            values=values,
        ),
        http_names=settings.metrics_names,
        start_rotation=functools.partial(_start_rotation, settings),
    )


def _start_rotation(settings: Settings) -> None:
    options = settings.access_log
    if options.file is not None and options.file_max_bytes is not None:
        rotation.start(
            options.file,
            options.file_max_bytes,
            keep=options.file_keep,
            max_age=options.file_max_age * 86_400,
        )


def history_file(settings: Settings, report: Callable[[str], None]) -> Path:
    """The history's file: where the settings have it, or else in a temporary folder."""
    file = settings.history.file.absolute()
    if not settings.history.enabled:
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        folder, name = Folder.above(file)
        with folder:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            descriptor = os.open(name, flags, 0o640, dir_fd=folder.descriptor)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EINVAL, "it is not a regular file")
            finally:
                os.close(descriptor)
    except OSError as error:
        temporary = _temporary_folder(file)
        report(
            f"warning: history.file: {file} cannot be written: {error.strerror}; the history is "
            f"kept in {temporary}, which may be lost when the gateway stops"
        )
        return temporary / file.name
    return file


def _temporary_folder(file: Path) -> Path:
    """The folder for a history that cannot be at `file`; the same for every start, so that a killed
    gateway leaves none behind."""
    digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:16]
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"sftp-gateway-{os.geteuid()}-{digest}"  # noqa: S108


def _prepare_folder(settings: Settings, folder: Path) -> None:
    """Create the history's folder if it is missing, and confine this thread to it.

    Raises OSError if it cannot be created, or a temporary one belongs to another user.
    """
    if folder == settings.history.file.absolute().parent:
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError(errno.EPERM, "it belongs to another user", str(folder))
    confine_history(settings, folder)


def _writer(
    settings: Settings,
    *,
    history_channel: HistoryChannel,
    registry: SessionRegistry,
    file: Path,
    values: SharedValues,
) -> HistoryWriter:
    options = settings.history
    limit = options.max_size if file == options.file.absolute() else _MAX_TEMPORARY_SIZE
    megabytes = min(limit, options.max_size)
    return HistoryWriter(
        channel=history_channel,
        registry=registry,
        open_store=functools.partial(
            open_store, file, max_age=options.max_age * 86_400, max_size=megabytes << 20
        )
        if options.enabled
        else None,
        values=values,
        prepare=functools.partial(_prepare_folder, settings, file.parent),
    )


def _status_app(
    snapshot: ConfigSnapshot,
    registry: SessionRegistry,
    file: Path,
    state: Callable[[], GatewayState | None],
) -> Application | None:
    """The status page, which is loaded with the first request for it: that takes 10 MiB."""
    settings = snapshot.settings
    if not settings.status.enabled:
        return None

    @functools.cache
    def app() -> Application:
        from sftp_gateway.observability.web.app import StatusApp  # noqa: PLC0415
        from sftp_gateway.observability.web.auth import TokenAuth  # noqa: PLC0415
        from sftp_gateway.observability.web.page import Sources  # noqa: PLC0415

        options = settings.status
        return StatusApp(
            sources=Sources(
                state=state,
                registry=registry,
                history=History(file) if settings.history.enabled else None,
                version=__version__,
                temporary=file != settings.history.file.absolute(),
            ),
            auth=TokenAuth(token=snapshot.status_token, local=settings.metrics_are_local),
            token_location=variable("status.token") if options.token else str(token_file(settings)),
        )

    def answer(request: Request) -> Response:
        return app()(request)

    return answer


def status_address(snapshot: ConfigSnapshot) -> str:
    """A line for people with the address of the status page."""
    settings = snapshot.settings
    if not (settings.status.enabled and settings.metrics_port):
        return ""
    line = f"Status page: http://localhost:{settings.metrics_port}/"
    if snapshot.status_token is None:
        return line if settings.metrics_are_local else ""
    where = variable("status.token") if settings.status.token else token_file(settings)
    return f"{line} (it asks for the token in {where})"


def _build() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "asyncssh": version("asyncssh"),
        "cryptography": version("cryptography"),
    }
