"""What the commands have in common: how they take a configuration, and talk to people."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from sftp_gateway.observability.access_log.json_lines import printable
from sftp_gateway.settings import Settings, env_file_options

#: Gives the settings of a command's options.
Load: TypeAlias = Callable[[argparse.Namespace], Settings]


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the configuration's file."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default: config/sftp-gateway.toml"
    )


def load_env_file(environ: MutableMapping[str, str]) -> None:
    """Add the options in the working folder's `.env`, if there is one; what is set goes before.

    Every command does, so that all of them mean the gateway that `serve` starts there.
    """
    for name, (value, _) in env_file_options().items():
        environ.setdefault(name, value)


@contextmanager
def ignore_broken_pipe() -> Iterator[None]:
    """Ends what writes to standard output once its reader has enough, as `head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain at its end, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(line: str) -> None:
    """A line for people, on standard error: standard output is for what was asked for.

    Whatever names are in it, it is one line and shows as it is. It is lost where it cannot be
    written (a full disk, a reader that is gone): nothing ends by it.
    """
    with suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)
