"""The commands; no logic of their own."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import logging
import os
import pwd
import sys
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

from sftp_gateway import __version__
from sftp_gateway.app.gateway import serve
from sftp_gateway.auth import MIN_PASSWORD_LENGTH, hash_password
from sftp_gateway.commands import bans, import_keys, keys, logs, running, worker_kit
from sftp_gateway.config.bootstrap import HOST_KEY, set_up
from sftp_gateway.config.snapshot import inspected
from sftp_gateway.console import add_config, ignore_broken_pipe, load_env_file, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.sandbox import policy as confinement
from sftp_gateway.server.ssh.probe import handshake
from sftp_gateway.settings import Settings, config_path, load_settings, settings_without_file
from sftp_gateway.system import occupancy
from sftp_gateway.system.dirfd import Owner
from sftp_gateway.worker_kit.host_keys import find_host_keys

#: Seconds that a health check waits for the handshake.
_HANDSHAKE_PATIENCE: Final = 5.0
#: Options that `doctor` has only for a worker's mount: with one of them, that is what is meant.
_WORKER_DOCTOR: Final = {"--worker", "--mount", "--server"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (sys.argv) name; return the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["doctor"] and _WORKER_DOCTOR & {word.partition("=")[0] for word in given}:
        return _worker_doctor(given[1:])
    options = _parser().parse_args(given)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    try:
        load_env_file(os.environ)
        return int(options.command(options))
    except ConfigurationError as error:
        for message in error.errors:
            report(f"error: {message}")
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sftp-gateway", description="A read-only SFTP server for workers that use sshfs."
    )
    parser.add_argument("--version", action="version", version=f"sftp-gateway {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, help_text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.set_defaults(command=command)
        return sub

    check = add("check", _check, "Print what differs from the defaults, and every mistake in it.")
    check.add_argument("--all", action="store_true", help="print the defaults, too")
    configured = [
        add("serve", _serve, "Serve the shares until SIGTERM or Ctrl-C."),
        check,
        add("healthcheck", _healthcheck, "Make an SSH handshake with the running gateway."),
        _add_doctor(add),
    ]
    init = add("init", _init, "Make a missing host key, worker's key pair and default shares.")
    init.add_argument(
        "--owner",
        type=_owner,
        metavar="UID:GID|USER",
        help="the user of a gateway that runs as another one: what it reads and writes is handed "
        "over, also from its user before if that has changed",
    )
    add("hash-password", _hash_password, "Ask for a password and print its argon2id hash.")
    keys.add_parser(commands, _settings)
    import_keys.add_parsers(commands, _settings)
    logs.add_parser(commands, _settings)
    bans.add_parser(commands, _settings)
    worker_kit.add_parser(commands, _settings)
    for sub in (*configured, init):
        add_config(sub)
    return parser


def _serve(options: argparse.Namespace) -> int:
    serve(
        lambda: _settings(options),
        config_file=config_path(options.config, os.environ),
        report=report,
    )
    return 0


def _init(options: argparse.Namespace) -> int:
    settings, config_file = _settings(options), config_path(options.config, os.environ)
    occupancy.check(settings.keys_dir)
    try:
        set_up(settings, gateway=options.owner, report=report, config_file=config_file)
        if lock := occupancy.hold(settings.keys_dir):  # so that it is there for the gateway
            os.close(lock.descriptor)
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {error.strerror}"]) from error
    return 0


def _check(options: argparse.Namespace) -> int:
    settings = _settings(options)
    shown = settings.model_dump(mode="json") if options.all else settings.changed
    with ignore_broken_pipe():
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    if not shown:
        report("All options have their defaults; `check --all` prints them.")
    _become_its_user(settings)
    found = inspected(settings, config_path(options.config, os.environ))
    findings = found.findings
    for warning in findings.warnings:
        report(f"warning: {warning}")
    for sentence in running.refusal(settings):
        report(sentence)
    if not findings.errors:  # else it is not taken
        for sentence in running.differences(settings, found.served, found.status_token):
            report(sentence)
    if errors := [*findings.errors, *findings.away]:
        raise ConfigurationError(errors)
    report(f"Landlock: {confinement.describe(settings.landlock)}.")
    report("The configuration is good.")
    return 0


def _healthcheck(options: argparse.Namespace) -> int:
    try:
        settings = _settings(options)
    except ConfigurationError as error:
        # A running gateway may have refused this file, and serve by the one before. Where it
        # listens is in the environment, or the default: always so in a container.
        if not _answers(settings_without_file(os.environ)):
            raise
        for message in error.errors:
            report(f"warning: not taken: {message}")
        return 0
    return 0 if _answers(settings) else 1


def _become_its_user(settings: Settings) -> None:
    """Let root see what the gateway sees: as the user who owns the host key."""
    key = settings.keys_dir / HOST_KEY
    try:
        status = os.stat(key)
    except OSError:
        return
    if os.geteuid() == 0 and status.st_uid != 0:
        report(f"As user {status.st_uid}, who owns {key}:")
        os.setgroups([])
        os.setgid(status.st_gid)
        os.setuid(status.st_uid)


def _answers(settings: Settings) -> bool:
    """Whether the running gateway makes a handshake, with its own host key; says what is wrong."""
    host = settings.host or "127.0.0.1"
    try:
        key = asyncio.run(handshake(host, settings.port, seconds=_HANDSHAKE_PATIENCE))
    except (OSError, TimeoutError) as error:
        report(f"error: {host} port {settings.port}: {_why(error)}")
        return False
    own = find_host_keys(settings)
    if own and key.split()[:2] not in [each.split() for each in own]:
        report(
            f"error: {host} port {settings.port}: another host key than those in "
            f"{settings.keys_dir} answered: {key}"
        )
        return False
    report("ok")
    return True


def _add_doctor(add: Callable[..., argparse.ArgumentParser]) -> argparse.ArgumentParser:
    doctor = add("doctor", _doctor, "Say what is wrong with this server, or with a worker's mount.")
    doctor.add_argument(
        "--worker",
        action="store_true",
        help="with a mount of this machine: `doctor --worker --help` has its options",
    )
    return doctor


def _worker_doctor(arguments: Sequence[str]) -> int:
    # Here, because it starts processes: the server has none.
    from sftp_gateway.worker_kit.doctor import run_doctor  # noqa: PLC0415

    return run_doctor(arguments)


def _doctor(options: argparse.Namespace) -> int:
    try:
        settings = _settings(options)
    except ConfigurationError as error:
        for message in error.errors:
            report(f"error: {message}")
        if _answers(settings := settings_without_file(os.environ)):
            report("The running gateway serves by the configuration before.")
            _ready(settings)
        return 1
    _become_its_user(settings)
    found = inspected(settings, config_path(options.config, os.environ))
    findings = found.findings
    errors = [*findings.errors, *findings.away]
    for kind, sentences in (("warning", findings.warnings), ("error", errors)):
        for sentence in sentences:
            report(f"{kind}: {sentence}")
    report(f"Landlock: {confinement.describe(settings.landlock)}.")
    answers = [_answers(settings), _ready(settings)]
    for sentence in running.differences(settings, found.served, found.status_token):
        report(sentence)
    return 0 if all(answers) and not errors else 1


def _ready(settings: Settings) -> bool:
    """Whether the running gateway says that it can serve all shares, by its newest configuration;
    says what it says."""
    try:
        status, body = running.get(settings, "/readyz")
        ready = status == HTTPStatus.OK and json.loads(body)["configuration"] == "ok"
    except OSError as error:
        host = running.host(settings)
        report(f"error: /readyz: {host} port {settings.metrics_port}: {_why(error)}")
        return False
    except (ValueError, KeyError, TypeError):
        ready = False
    report(f"{'' if ready else 'error: '}/readyz: {status}: {body.strip()}")
    return ready


def _why(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there: the gateway does not run, or at another address or port"
    return str(error) or "no answer"


def _hash_password(_: argparse.Namespace) -> int:
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if password != getpass.getpass("Once more: "):
            report("error: the two are not the same")
            return 1
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not password:
        report("error: the password is empty")
        return 1
    if len(password) < MIN_PASSWORD_LENGTH:
        report(
            f"error: the password has {len(password)} characters; take {MIN_PASSWORD_LENGTH} or "
            "more (`openssl rand -base64 18` makes one that nobody guesses)"
        )
        return 1
    try:
        print(hash_password(password))
    except ValueError as error:
        report(f"error: {error}")
        return 1
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    return load_settings(options.config, os.environ)


def _owner(text: str) -> Owner:
    uid, colon, gid = text.partition(":")
    if uid.isdecimal() and colon and gid.isdecimal():
        return Owner(int(uid), int(gid))
    try:
        user = pwd.getpwnam(text)
    except KeyError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither UID:GID, such as 10001:10001, nor the name of a user"
        ) from None
    return Owner(user.pw_uid, user.pw_gid)
