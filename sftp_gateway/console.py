"""What the commands have in common: how they take a configuration, and talk to people."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from sftp_gateway.settings import Settings

#: Gives the settings of a command's options.
Load: TypeAlias = Callable[[argparse.Namespace], Settings]


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the configuration's file."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default: config/sftp-gateway.toml"
    )


def say(line: str) -> None:
    """A line for people, on standard error: standard output is for what was asked for."""
    print(line, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` with a question mark for whatever a terminal would not just show."""
    return "".join(character if character.isprintable() else "?" for character in text)
