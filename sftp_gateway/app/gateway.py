"""The composition root: starts the gateway. Its processes run `worker` and `observer`."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sftp_gateway import __version__
from sftp_gateway.app.access_log import check_log
from sftp_gateway.app.observer import run_observer, status_address
from sftp_gateway.app.worker import allot_descriptors, run_worker
from sftp_gateway.config import folder_lock
from sftp_gateway.config.bootstrap import WORKER_KEY, set_up
from sftp_gateway.config.snapshot import ConfigSnapshot, read_config, reread_config
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.web import server as http_server
from sftp_gateway.process.entrypoints import ProcessEntrypoints
from sftp_gateway.process.runner import descriptor_limit, raise_descriptor_limit
from sftp_gateway.process.supervisor import control
from sftp_gateway.process.supervisor.supervisor import Supervisor
from sftp_gateway.sandbox.policy import confine_all
from sftp_gateway.settings import Settings
from sftp_gateway.system import sockets
from sftp_gateway.vfs.path_resolution import choose_resolver


def serve(
    load: Callable[[], Settings], *, config_file: Path, report: Callable[[str], None]
) -> None:
    """Serve until a signal says stop.

    `load` reads the settings from `config_file`, now and for each reload; `report` gets lines for
    people. Raises ConfigurationError before anything is served.
    """
    snapshot = read_config(load, config_file, prepare=partial(_set_up, report=report))
    settings = snapshot.settings
    with settings.origins.locate_errors():
        check_log(settings)
    for warning in snapshot.warnings:
        report(f"warning: {warning}")
    if snapshot.findings.away:
        served = len(settings.shares) - len(snapshot.findings.away)
        report(
            f"error: {served} of {len(settings.shares)} shares can be read; each of the "
            "others is served as soon as it can be read"
        )
    if settings.access_log.stdout and _are_one_file(sys.stdout.fileno(), sys.stderr.fileno()):
        report(
            "warning: access_log: standard error and the log on standard output go to the same "
            "file, so that a worker could change the log; send them to different files"
        )
    folder_lock.acquire(settings.keys_dir)  # held until this process ends
    raise_descriptor_limit()
    room = allot_descriptors(settings, choose_resolver()).connections
    if room < settings.max_connections:
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
        confine_all(settings.landlock)
        Supervisor(
            entrypoints=ProcessEntrypoints(
                reload=partial(_reload, load, config_file),
                worker=run_worker,
                observer=partial(run_observer, report=report),
                announce=partial(_announce, report=report),
                report=report,
            ),
            snapshot=snapshot,
            listener=listener,
            http_listener=http_listener,
            control_listener=control_listener,
        ).run()


@contextmanager
def _control_socket(
    settings: Settings, report: Callable[[str], None]
) -> Iterator[socket.socket | None]:
    """The control socket while the gateway runs; None if it cannot be made."""
    try:
        listener = control.listen(settings)
    except OSError as error:
        report(
            f"warning: {control.path_of(settings)}: cannot be created: {error.strerror}; "
            "`sftp-gateway bans` does not work"
        )
        yield None
        return
    with listener:
        yield listener  # its name stays: by then it may be the next gateway's


def _are_one_file(*descriptors: int) -> bool:
    """Whether all lead to the same regular file. What is written to a pipe cannot be changed."""
    found = [os.fstat(each) for each in descriptors]
    return stat.S_ISREG(found[0].st_mode) and os.path.samestat(*found)


def _set_up(settings: Settings, *, report: Callable[[str], None]) -> None:
    folder_lock.check(settings.keys_dir)
    if settings.auto_setup:
        try:
            set_up(settings, gateway=None, report=report)
        except OSError as error:
            raise ConfigurationError(
                [
                    f"{error.filename}: cannot be created: {error.strerror}; set auto_setup = "
                    "false to start without creating anything"
                ]
            ) from error


def _reload(
    load: Callable[[], Settings],
    config_file: Path,
    running: ConfigSnapshot,
    unresponsive: Collection[str],
) -> ConfigSnapshot:
    found = reread_config(load, config_file, running, unresponsive=unresponsive)
    if found.settings.access_log != running.settings.access_log:
        with found.settings.origins.locate_errors():
            check_log(found.settings)
    return found


def _announce(snapshot: ConfigSnapshot, port: int, *, report: Callable[[str], None]) -> None:
    for line in mount_help(snapshot.settings, port):
        report(line)
    if line := status_address(snapshot):
        report(line)


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
