"""The command line: finds the command that is named, loads it alone, and runs it."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Final

from sftp_gateway import __version__
from sftp_gateway.console import load_env_file, report
from sftp_gateway.errors import ConfigurationError

#: Every command, and what its help says. `sftp_gateway.commands` has a module for each, named after
#: it, with `add_arguments`, which sets `run`.
COMMANDS: Final[Mapping[str, str]] = {
    "serve": "Serve the shares until SIGTERM or Ctrl-C.",
    "check": "Check the configuration; print the options that differ from their defaults.",
    "healthcheck": "Make an SSH handshake with the running gateway.",
    "doctor": "Diagnose this server, or a worker's mount (--worker).",
    "init": "Create a missing host key, worker key pair and default shares.",
    "hash-password": "Ask for a password and print its argon2id hash.",
    "keys": "List, add, expire, remove and rotate keys.",
    "import-authorized-keys": "Import the authorized keys of an OpenSSH server.",
    "import-host-key": "Keep the host keys of another server, so that workers notice no change.",
    "logs": "Show who read what, what was denied, and totals.",
    "bans": "List the sources that the running gateway has banned, or lift bans.",
    "worker-kit": "Create files or a script that set up a worker, or set up workers (--hosts).",
    "completion": "Print the completion script of a shell.",
}

#: Options of `doctor` that only a worker's mount has: any of them selects that doctor.
_WORKER_OPTIONS: Final = frozenset({"--worker", "--mount", "--server"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (sys.argv) name; return the exit status."""
    if "_ARGCOMPLETE" in os.environ:
        from sftp_gateway.commands.completion import complete  # noqa: PLC0415 - only on Tab

        complete(build_parser())
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["doctor"] and _WORKER_OPTIONS & {word.partition("=")[0] for word in given}:
        # Here, because it starts a process: nothing that serves can.
        from sftp_gateway.worker_kit.doctor import run_doctor  # noqa: PLC0415

        return run_doctor(given[1:])
    options = build_parser(given[:1]).parse_args(given)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    try:
        load_env_file(os.environ)
        return int(options.run(options))
    except ConfigurationError as error:
        for each in error.errors:
            report(f"error: {each}")
        return 2
    except KeyboardInterrupt:
        return 130


def build_parser(names: Collection[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser, with the arguments of the commands in `names`; only their modules are loaded."""
    parser = argparse.ArgumentParser(
        prog="sftp-gateway", description="A read-only SFTP server for workers that use sshfs."
    )
    parser.add_argument("--version", action="version", version=f"sftp-gateway {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    gc.disable()  # what modules create while they load stays in use
    try:
        for name, text in COMMANDS.items():
            command = commands.add_parser(name, help=text, description=text)
            if name in names:
                module = import_module(f"{__package__}.{name.replace('-', '_')}")
                module.add_arguments(command)
    finally:
        gc.enable()
    return parser
