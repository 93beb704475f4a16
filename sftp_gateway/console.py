"""What the commands have in common: how they take a configuration, and talk to people."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.json_lines import visible
from sftp_gateway.settings import Settings

#: The file that docker-compose reads too, and its lines that are the gateway's.
ENV_FILE: Final = Path(".env")
_ASSIGNMENT: Final = re.compile(r"(SFTP_GATEWAY_[A-Z0-9_]+)=(.*)")

#: Gives the settings of a command's options.
Load: TypeAlias = Callable[[argparse.Namespace], Settings]


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the configuration's file."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default: config/sftp-gateway.toml"
    )


def take_env_file(environ: MutableMapping[str, str]) -> None:
    """Add the options in the working folder's `.env`, if there is one; what is set goes before.

    Every command does, so that all of them mean the gateway that `serve` starts there.
    """
    try:
        text = ENV_FILE.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError([f"{ENV_FILE}: cannot be read: {error.strerror}"]) from error
    for line in text.splitlines():
        if found := _ASSIGNMENT.fullmatch(line.rstrip()):
            name, value = found.groups()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            environ.setdefault(name, value)


@contextmanager
def while_it_is_read() -> Iterator[None]:
    """Ends what writes to standard output once its reader has enough, as `head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain at its end, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(line: str) -> None:
    """A line for people, on standard error: standard output is for what was asked for.

    Whatever names are in it, it is one line and shows as it is. It is lost where it cannot be
    written (a full disk, a reader that is gone): nothing ends by it.
    """
    with suppress(OSError):
        print(visible(line), file=sys.stderr, flush=True)
