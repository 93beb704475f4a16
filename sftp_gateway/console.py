"""What the commands share: their configuration, and output for people and for programs.

On a terminal, tables and messages have colours (unless NO_COLOR is set or TERM is dumb); elsewhere
they are plain text. Standard output has what was asked for, standard error everything else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sftp_gateway.observability.access_log.json_lines import printable
from sftp_gateway.observability.access_log.terminal import wants_colour
from sftp_gateway.settings import Settings, env_file_options, load_settings

#: How the first words of messages look on a terminal (ECMA-48, SGR).
_PREFIXES: Final = {"error:": "\x1b[1;31m", "warning:": "\x1b[1;33m"}
_RESET: Final = "\x1b[m"


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the configuration file."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default: config/sftp-gateway.toml"
    )


def add_json(parser: argparse.ArgumentParser, text: str = "print one JSON object a line") -> None:
    """Add the option for output that programs read."""
    parser.add_argument("--json", action="store_true", help=text)


def load(options: argparse.Namespace) -> Settings:
    """The settings of a command. Raises ConfigurationError."""
    return load_settings(options.config, os.environ)


def load_env_file(environ: MutableMapping[str, str]) -> None:
    """Add the options in the working folder's `.env`, if there is one; the environment wins.

    Every command does, so that all of them mean the gateway that `serve` starts there.
    """
    for name, (value, _) in env_file_options().items():
        environ.setdefault(name, value)


@contextmanager
def ignore_broken_pipe() -> Iterator[None]:
    """End quietly once the reader of standard output has enough, as `head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain at exit, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(line: str) -> None:
    """Print one line for people on standard error, with control characters escaped.

    A line that cannot be written (a full disk, a closed pipe) is lost; no command fails for it.
    """
    text = printable(line)
    prefix = text.partition(" ")[0]
    if prefix in _PREFIXES and wants_colour(sys.stderr):
        text = f"{_PREFIXES[prefix]}{prefix}{_RESET}{text.removeprefix(prefix)}"
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """Print indented JSON; what would not show as it is, is escaped in it."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    with ignore_broken_pipe():
        print("\n".join(map(printable, text.split("\n"))))


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[int] = (),
    marked: Collection[int] = (),
) -> None:
    """Print columns: those in `numbers` to the right, the rows in `marked` in red."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if wants_colour(sys.stdout):
        _print_rich_table(header, rows, numbers=numbers, marked=marked)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = (
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip(), file=sys.stdout)


def _print_rich_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[int],
    marked: Collection[int],
) -> None:
    # Here, because the gateway itself and its health check never need it.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, name in enumerate(header):
        table.add_column(
            Text(name), justify="right" if column in numbers else "left", overflow="fold"
        )
    for number, row in enumerate(rows):
        # Text, because rich would read markup in a plain string.
        table.add_row(*map(Text, row), style="red" if number in marked else "")
    Console(file=sys.stdout, highlight=False, emoji=False).print(table)
