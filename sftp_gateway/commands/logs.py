"""`sftp-gateway logs`: queries the history or an access log."""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, get_args

from sftp_gateway.commands.log_output import DEFAULT_LINES, LinePrinter, print_lines, print_totals
from sftp_gateway.commands.times import parse_log_time
from sftp_gateway.console import add_config, ignore_broken_pipe, load, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log.events import EVENTS
from sftp_gateway.observability.access_log.line import RESULTS
from sftp_gateway.observability.history.channel import EXCLUDED_EVENTS
from sftp_gateway.observability.history.last_used import read_lines
from sftp_gateway.observability.history.log_file import LogFile
from sftp_gateway.observability.history.queries import Filter, GroupBy, History
from sftp_gateway.settings import Settings

#: Seconds between two queries with --follow.
_POLL_INTERVAL: Final = 0.5

#: Lines shown before those that --follow waits for.
_FOLLOWED_LINES: Final = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    parser.set_defaults(run=_run)
    add_config(parser)
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="an access log instead of the history, - for standard input",
    )
    which = parser.add_argument_group("filters")
    which.add_argument("--user", default="", help="user name, also of failed logins")
    which.add_argument("--share", default="", help="share name")
    which.add_argument(
        "--path", default="", metavar="PART", help="path contains PART, ignoring case"
    )
    which.add_argument(
        "--key",
        default="",
        metavar="LABEL|SHA256:...",
        help="key: its comment, a certificate's key id, or the beginning of a fingerprint, also of "
        "the certificate authority",
    )
    which.add_argument("--result", default="", help="ok, aborted, denied or refused")
    which.add_argument("--event", default="", help="such as file_closed; see docs/access-log.md")
    which.add_argument("--ip", default="", metavar="ADDRESS", help="client address")
    which.add_argument("--since", metavar="WHEN", help="not before: 90m, 24h, 7d, today, or a date")
    which.add_argument("--until", metavar="WHEN", help="before")
    which.add_argument(
        "-n", "--lines", type=_count, metavar="N",
        help=f"the last N lines, or the first N totals; default: all since --since, else "
        f"{DEFAULT_LINES} ({_FOLLOWED_LINES} with --follow)",
    )  # fmt: skip
    how = parser.add_argument_group("output")
    how.add_argument("-f", "--follow", action="store_true", help="wait for new lines and show them")
    how.add_argument(
        "--by", choices=tuple(get_args(GroupBy)), help="totals instead of lines, most bytes first"
    )
    forms = how.add_mutually_exclusive_group()
    forms.add_argument("--csv", action="store_true", help="comma-separated values")
    forms.add_argument("--json", action="store_true", help="print one JSON object a line")


_EPILOG: Final = (
    "WHEN is a time span before now (30s, 90m, 24h, 7d, 2w), today, yesterday, or a date and time "
    "such as 2026-01-31 or 2026-01-31T14:30, in local time unless it ends with Z or an offset."
)


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) < 1 << 31):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    which = _filter(options)
    if options.follow and (options.by or options.file):
        raise ConfigurationError(
            ["--follow works with lines of the history only; to follow a file: "
             "tail -F FILE | sftp-gateway logs -"]
        )  # fmt: skip
    with ignore_broken_pipe():
        if options.file:
            _show_file(options, which)
        else:
            _show_history(options, which, load(options))
    return 0


def _filter(options: argparse.Namespace) -> Filter:
    now = datetime.now(UTC)
    times: dict[str, float | None] = {}
    for name in ("since", "until"):
        text = getattr(options, name)
        try:
            times[name] = parse_log_time(text, now).timestamp() if text else None
        except (ValueError, OverflowError) as error:
            raise ConfigurationError([f"--{name}: {error}"]) from error
    since, until = times["since"], times["until"]
    if since is not None and until is not None and since >= until:
        raise ConfigurationError(["--until must be later than --since"])
    return Filter(
        user=options.user,
        share=options.share,
        path=options.path,
        result=options.result,
        event=options.event,
        client_ip=options.ip,
        key=options.key,
        since=since,
        until=until,
    )


# From a file


def _show_file(options: argparse.Namespace, which: Filter) -> None:
    try:
        source = (
            sys.stdin.buffer
            if options.file == "-"
            else read_lines([Path(options.file)], report=report)
        )
        log = LogFile(source, follow=options.file == "-" and not options.by)
        if options.by:
            print_totals(options, log.totals(which, options.by, _limit(options)))
        else:
            found: Iterable[str] = log.lines(which)
            if options.lines is not None:
                found = deque(found, maxlen=options.lines)
            print_lines(options, found)
        if log.unclosed:
            report(
                "files that were open when their worker process was killed (worker_exited): "
                f"{log.unclosed}; how much of them was read is unknown"
            )
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise ConfigurationError([f"{options.file}: cannot be read: {error.strerror}"]) from error


# From the history


def _check_values(which: Filter) -> None:
    """Reject values that the history never has: an empty answer would mislead."""
    errors = []
    if which.result not in ("", *RESULTS):
        errors.append(f"--result: {which.result!r} is not one of {', '.join(RESULTS)}")
    if which.event in EXCLUDED_EVENTS:
        errors.append(
            f"--event: the history does not keep {which.event!r}; an access log has it: "
            "sftp-gateway logs FILE"
        )
    elif which.event:
        kept = sorted({each.name for each in EVENTS} - EXCLUDED_EVENTS)
        if which.event not in kept:
            errors.append(f"--event: {which.event!r} is not one of {', '.join(kept)}")
    if errors:
        raise ConfigurationError(errors)


def _show_history(options: argparse.Namespace, which: Filter, settings: Settings) -> None:
    _check_values(which)
    history = History(settings.history.file)
    if not settings.history.file.exists():
        raise ConfigurationError(
            [
                f"there is no history {settings.history.file} (history.file); the gateway "
                "creates it unless history.enabled is false or it warns that it cannot. To read an "
                "access log instead: sftp-gateway logs FILE, or - for standard input"
            ]
        )
    try:
        if options.by:
            print_totals(options, history.totals(which, options.by, _limit(options)))
        elif options.follow:
            _follow(options, history, which)
        else:
            found, more = _newest_lines(options, history, which)
            print_lines(options, found)
            if more:
                report(f"showing the last {DEFAULT_LINES} lines; use -n N or --since WHEN for more")
    except sqlite3.Error as error:
        raise ConfigurationError([f"{settings.history.file}: cannot be read: {error}"]) from error


def _newest_lines(
    options: argparse.Namespace, history: History, which: Filter
) -> tuple[Iterable[str], bool]:
    """The lines to show, and whether the default limit left lines out."""
    if options.lines is None and which.since is not None:
        return (entry.line for entry in history.lines(which)), False
    few = options.lines or (_FOLLOWED_LINES if options.follow else DEFAULT_LINES)
    found = history.entries(which, few + 1, oldest_first=True)
    return [entry.line for entry in found[-few:]], options.lines is None and len(found) > few


def _limit(options: argparse.Namespace) -> int:
    """How many totals to ask for: one more than is shown, to know whether there are more."""
    return options.lines or DEFAULT_LINES + 1


def _follow(options: argparse.Namespace, history: History, which: Filter) -> None:
    printer = LinePrinter(options)
    last = history.newest()
    found, _ = _newest_lines(options, history, _after(which, None, last))
    while True:
        for line in found:
            printer.show(line)
        sys.stdout.flush()
        time.sleep(_POLL_INTERVAL)
        newest = history.newest()
        if newest < last:  # the history was recreated
            last = 0
        found = (entry.line for entry in history.lines(_after(which, last, newest)))
        last = newest


def _after(which: Filter, after: int | None, newest: int) -> Filter:
    return replace(which, after=after, before=newest + 1)
