"""`sftp-gateway worker-kit`: writes the kit, prints it as one script, or sets workers up."""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sftp_gateway.config.bootstrap import AUTHORIZED_KEYS
from sftp_gateway.console import add_config, load, print_table, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log.json_lines import printable
from sftp_gateway.observability.access_log.terminal import wants_colour
from sftp_gateway.settings import Settings
from sftp_gateway.system.containers import with_docker
from sftp_gateway.system.dirfd import Folder
from sftp_gateway.worker_kit.authorizing import authorize_key
from sftp_gateway.worker_kit.contents import Kit
from sftp_gateway.worker_kit.host_keys import require_host_keys
from sftp_gateway.worker_kit.hosts import Outcome, parse_hosts
from sftp_gateway.worker_kit.progress import Progress

_MOUNT: Final = "/mnt/sshfs/main-server"
_SCRIPT: Final = "worker-kit.sh"
#: Text that needs no quotes in shell scripts and ssh_config.
_SERVER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.%a-z]*")
_FOLDER: Final = re.compile(r"/[A-Za-z0-9._/@%+-]+")
#: The commands that authorize a key, with and without Docker.
_DOCKER_KEYS_ADD: Final = "docker-compose run --rm --no-deps -T init keys add"
_PROGRAM: Final = ".venv/bin/sftp-gateway"
#: A key file has less than 4 KiB; more than this is something else.
_MAX_KEY: Final = 65_536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(run=lambda options: _run(load(options), options))
    add = parser.add_argument
    add(
        "--server",
        metavar="HOST",
        help="the gateway's name or address for workers; default: public_host",
    )
    add("--port", type=int, help="its port for workers; default: public_port, or port")
    add("--user", help="the login name; default: the first user of the configuration")
    add("--remote", metavar="FOLDER", help="the folder to mount; default: /home/USER, all shares")
    add("--mount", metavar="FOLDER", default=_MOUNT, help=f"the mount point; default: {_MOUNT}")
    add(
        "--key",
        metavar="FILE",
        help="include this private key, - for standard input, and keep the kit secret; default: "
        "each worker creates its own key",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("worker-kit"), help="default: worker-kit"
    )
    where.add_argument(
        "--stdout", action="store_true", help="print the script: ... | ssh root@WORKER sh"
    )
    where.add_argument(
        "--hosts",
        type=Path,
        metavar="FILE",
        help="set up every worker of the file over ssh: [user@]host[:port] [set-up's options]",
    )
    add("--ssh-config", type=Path, metavar="FILE", help="for --hosts: instead of ~/.ssh/config")
    add(
        "--parallel",
        type=int,
        metavar="N",
        default=8,
        help="for --hosts: workers at a time; default: 8",
    )
    add(
        "--timeout",
        type=float,
        metavar="SECONDS",
        default=300.0,
        help="for --hosts: for each worker; default: 300",
    )
    add_config(parser)


def _run(settings: Settings, options: argparse.Namespace) -> int:
    kit = _kit(settings, options)
    if options.hosts is not None:
        return _set_up(kit, settings.keys_dir / AUTHORIZED_KEYS / kit.user, options)
    if options.stdout:
        if sys.stdout.isatty():
            report(
                "This is the script; pipe it into a shell on the worker: ... | ssh root@WORKER sh"
            )
        sys.stdout.buffer.write(kit.script())
        sys.stdout.buffer.flush()
        return 0
    try:
        _write(kit, options.out)
    except OSError as error:
        raise ConfigurationError(
            [f"{error.filename or options.out}: cannot be written: {error.strerror}"]
        ) from error
    report(f"created {options.out}/ and {options.out / _SCRIPT}. On a worker, as root:")
    report(f"    sh {_SCRIPT}")
    if kit.key is not None:
        report(
            "Both contain the worker's private key: keep them secret, and delete them afterwards."
        )
    return 0


def _kit(settings: Settings, options: argparse.Namespace) -> Kit:
    errors = []
    server = options.server or settings.public_host
    port = options.port or settings.public_port or settings.port
    user = options.user or next(iter(settings.users), "")
    if options.server is None and server == "localhost":
        errors.append("--server HOST is missing: the name or address that workers reach it by")
    elif not _SERVER.fullmatch(server):
        errors.append(f"--server: {server!r} is not a name or address")
    if not 0 < port < 65_536:
        errors.append(f"--port: {port} is not a port that workers could connect to")
    if user not in settings.users:
        errors.append(
            f"--user: {user!r} is not a user of the configuration: {', '.join(settings.users)}"
        )
    remote = options.remote or f"/home/{user}"
    for name, folder in (("--remote", remote), ("--mount", options.mount)):
        if not _FOLDER.fullmatch(folder):
            errors.append(f"{name}: {folder!r} is not an absolute path of plain characters")
    if errors:
        raise ConfigurationError(errors)
    return Kit(
        server=server,
        port=port,
        user=user,
        remote=remote,
        mount=options.mount.rstrip("/"),
        host_keys=require_host_keys(settings),
        key=None if options.key is None else _key(options.key),
        keys_add=_keys_add(),
    )


def _keys_add() -> str:
    if with_docker():
        return _DOCKER_KEYS_ADD
    # As it was typed for this command.
    typed = re.fullmatch(r"[A-Za-z0-9._/-]*sftp-gateway", sys.argv[0])
    return f"{typed[0] if typed else _PROGRAM} keys add"


def _key(name: str) -> bytes:
    try:
        if name == "-":
            key = sys.stdin.buffer.read(_MAX_KEY)
        else:
            with open(name, "rb") as file:
                key = file.read(_MAX_KEY)
    except OSError as error:
        raise ConfigurationError([f"--key: {name}: cannot be read: {error.strerror}"]) from error
    if b"PRIVATE KEY-----" not in key:
        raise ConfigurationError([f"--key: {name} is not a private key"])
    return key


def _write(kit: Kit, path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    with Folder.open(path) as folder:
        for name, file in kit.files().items():
            _write_file(folder, name, file.content, file.mode)
        _write_file(folder, _SCRIPT, kit.script(), 0o755 if kit.key is None else 0o700)


def _write_file(folder: Folder, name: str, content: bytes, mode: int) -> None:
    """Anew, so that it has its mode before it has its content."""
    folder.remove(name, missing_ok=True)
    folder.write_new(name, content, mode=mode, owner=None)


def _set_up(kit: Kit, authorized_keys: Path, options: argparse.Namespace) -> int:
    # Here, and not with the others: what serves shall not even load what can start a program.
    from sftp_gateway.worker_kit.fleet import FleetInstaller  # noqa: PLC0415

    if shutil.which("ssh") is None:
        raise ConfigurationError(
            [
                "--hosts needs ssh, which is not installed here (nor in the gateway's container); "
                "run this from a checkout, or pipe --stdout to each worker"
            ]
        )
    if options.parallel < 1 or options.timeout <= 0:
        raise ConfigurationError(["--parallel and --timeout must be greater than 0"])
    try:
        text = options.hosts.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError([f"--hosts: {options.hosts}: cannot be read: {why}"]) from error
    hosts = parse_hosts(text, source=str(options.hosts))
    fleet = FleetInstaller(
        kit=kit,
        authorize_key=lambda line: authorize_key(authorized_keys, line),
        ssh_config=options.ssh_config,
        timeout=options.timeout,
        parallel=options.parallel,
    )
    progress = Progress(hosts, sys.stderr)
    try:
        outcomes = asyncio.run(fleet.set_up(hosts, progress))
    finally:
        progress.close()
    return _report(outcomes)


def _report(outcomes: Sequence[Outcome]) -> int:
    rows = [(e.host.name, "ok" if e.ok else "FAILED", e.message) for e in outcomes]
    if wants_colour(sys.stdout):
        marked = [number for number, each in enumerate(outcomes) if not each.ok]
        print_table(("WORKER", "RESULT", "MESSAGE"), rows, marked=marked)
    else:
        width = max(len(name) for name, _, _ in rows)
        for name, result, message in rows:
            print(printable(f"{name.ljust(width)}  {result:<6}  {message}"))
    failed = sum(not each.ok for each in outcomes)
    report(f"{len(outcomes) - failed} of {len(outcomes)} workers set up")
    return 1 if failed else 0
