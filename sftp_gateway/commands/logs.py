"""`sftp-gateway logs`: what the history or an access log tells, for people and for programs."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any, Final, get_args

from sftp_gateway.console import Load, add_config, ignore_broken_pipe, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability import formatting
from sftp_gateway.observability.access_log.events import EVENTS
from sftp_gateway.observability.access_log.json_lines import printable
from sftp_gateway.observability.access_log.line import RESULTS, LogLine
from sftp_gateway.observability.access_log.terminal import columns, wants_colour
from sftp_gateway.observability.history.channel import EXCLUDED_EVENTS
from sftp_gateway.observability.history.last_used import lines_of
from sftp_gateway.observability.history.log_file import LogFile
from sftp_gateway.observability.history.queries import Filter, GroupBy, History, Total
from sftp_gateway.settings import Settings

#: Seconds between two looks with `--follow`.
_LOOK: Final = 0.5

#: Lines that are shown where neither a time nor a number is asked for.
_LINES: Final = 50

#: The same before what is followed.
_FEW: Final = 10

_SPAN: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

#: Columns of a CSV file: these of the access log's keys, in this order.
_COLUMNS: Final = (
    "time", "event", "user", "user_tried", "client_ip", "share", "path", "result", "reason",
    "operation", "bytes", "size", "whole", "duration", "method", "key", "session",
    "client_version", "target", "key_label", "source", "until",
)  # fmt: skip

#: Where a spreadsheet may take text for a formula: at its start, and, as some split at other
#: characters than the comma and find no quotes within a cell, behind these (OWASP, CSV injection);
#: the last four are full-width, which some take for the plain ones.
_FORMULA: Final = re.compile(r"(^|[;,|\t\r\n])(?=[\s\"]*[=+\-@\uff1d\uff0b\uff0d\uff20])")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], load: Load) -> None:
    """Add `logs` to the program's commands; `load` gives the settings of its options."""
    text = "Show what was read by whom, what was denied, and sums of it."
    sub = commands.add_parser("logs", help=text, description=text, epilog=_EPILOG)
    sub.set_defaults(command=lambda options: _logs(options, load))
    add_config(sub)
    sub.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="an access log to read instead of the history, - for standard input",
    )
    which = sub.add_argument_group("which lines")
    which.add_argument("--user", default="", help="of this user, or tried as this one")
    which.add_argument("--share", default="", help="of this share")
    which.add_argument(
        "--path", default="", metavar="PART", help="whose path has this in it, in any case"
    )
    which.add_argument(
        "--key",
        default="",
        metavar="LABEL|SHA256:...",
        help="of this key: its comment, a certificate's key id, or the beginning of a fingerprint, "
        "of an authority too",
    )
    which.add_argument("--result", default="", help="ok, aborted, denied or refused")
    which.add_argument(
        "--event", default="", help="such as file_closed; docs/access-log.md has all"
    )
    which.add_argument("--ip", default="", metavar="ADDRESS", help="of clients at this address")
    which.add_argument(
        "--since", metavar="WHEN", help="from then on: 90m, 24h, 7d, today, or a date"
    )
    which.add_argument("--until", metavar="WHEN", help="before then")
    which.add_argument(
        "-n", "--lines", type=_count, metavar="N",
        help=f"the last N lines, or the first N of a sum; default: all since --since, or {_LINES}, "
        f"with --follow {_FEW}",
    )  # fmt: skip
    how = sub.add_argument_group("how they are shown")
    how.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    how.add_argument(
        "--by", choices=tuple(get_args(GroupBy)), help="sums instead of lines, most bytes first"
    )
    forms = how.add_mutually_exclusive_group()
    forms.add_argument("--csv", action="store_true", help="comma-separated values, for a sheet")
    forms.add_argument("--json", action="store_true", help="JSON, one object a line")


_EPILOG: Final = (
    "WHEN is a span back from now (30s, 90m, 24h, 7d, 2w), today, yesterday, or a date and time "
    "such as 2026-01-31 or 2026-01-31T14:30, in the time of this machine unless it ends in Z or "
    "an offset."
)


def moment(text: str, now: datetime) -> datetime:
    """A point in time as people write it; dates are those of this machine's time zone.

    Raises ValueError.
    """
    span = _SPAN.fullmatch(text)
    if span is not None:
        return now.astimezone(UTC) - timedelta(**{_UNITS[span[2]]: int(span[1])})
    if text in ("today", "yesterday"):
        day = now.astimezone().date() - timedelta(days=text == "yesterday")
        return _on_the_clock(datetime.combine(day, time_of_day.min))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: write 90m, 24h, 7d, today, yesterday, 2026-01-31 or "
            "2026-01-31T14:30"
        ) from None
    return found if found.tzinfo else _on_the_clock(found)


def _on_the_clock(shown: datetime) -> datetime:
    """When this machine's clock shows this, or would, had it not been put forward just then."""
    found = shown.astimezone()
    if found.replace(tzinfo=None) == shown:
        return found
    return max(found, shown.replace(fold=1).astimezone())


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) < 1 << 31):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _logs(options: argparse.Namespace, load: Load) -> int:
    which = _filter(options)
    if options.follow and (options.by or options.file):
        raise ConfigurationError(
            ["--follow goes with the history's lines only; a file is followed by: "
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
            times[name] = moment(text, now).timestamp() if text else None
        except (ValueError, OverflowError) as error:
            raise ConfigurationError([f"--{name}: {error}"]) from error
    since, until = times["since"], times["until"]
    if since is not None and until is not None and since >= until:
        raise ConfigurationError(["--until is not later than --since: there is no time between"])
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
            else lines_of([Path(options.file)], report=report)
        )
        log = LogFile(source, follow=options.file == "-" and not options.by)
        if options.by:
            _print_sums(options, log.totals(which, options.by, _limit(options)))
        else:
            found: Iterable[str] = log.lines(which)
            if options.lines is not None:
                found = deque(found, maxlen=options.lines)
            _print_lines(options, found)
        if log.unclosed:
            report(
                "files that were open when their worker process was killed (worker_exited): "
                f"{log.unclosed}; how much was read of them is not known"
            )
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise ConfigurationError([f"{options.file}: cannot be read: {error.strerror}"]) from error


# From the history


def _check_words(which: Filter) -> None:
    """A word that the history never has would look as if nothing had happened."""
    errors = []
    if which.result not in ("", *RESULTS):
        errors.append(f"--result: {which.result!r} is none of {', '.join(RESULTS)}")
    if which.event in EXCLUDED_EVENTS:
        errors.append(
            f"--event: the history does not keep {which.event!r}; an access log has it: "
            "sftp-gateway logs FILE"
        )
    elif which.event:
        kept = sorted({each.name for each in EVENTS} - EXCLUDED_EVENTS)
        if which.event not in kept:
            errors.append(f"--event: {which.event!r} is none of {', '.join(kept)}")
    if errors:
        raise ConfigurationError(errors)


def _show_history(options: argparse.Namespace, which: Filter, settings: Settings) -> None:
    _check_words(which)
    history = History(settings.history.file)
    if not settings.history.file.exists():
        raise ConfigurationError(
            [
                f"there is no history {settings.history.file} (history.file); the gateway makes it "
                "when it serves, unless history.enabled is false or it warns that it cannot. An "
                "access log can be read too: sftp-gateway logs FILE, or - for standard input"
            ]
        )
    try:
        if options.by:
            _print_sums(options, history.totals(which, options.by, _limit(options)))
        elif options.follow:
            _follow(options, history, which)
        else:
            found, more = _there(options, history, which)
            _print_lines(options, found)
            if more:
                report(f"these are the last {_LINES} lines: -n N or --since WHEN shows more")
    except sqlite3.Error as error:
        raise ConfigurationError([f"{settings.history.file}: cannot be read: {error}"]) from error


def _there(
    options: argparse.Namespace, history: History, which: Filter
) -> tuple[Iterable[str], bool]:
    """The lines to show, and whether there are more that nobody asked to leave out."""
    if options.lines is None and which.since is not None:
        return (entry.line for entry in history.lines(which)), False
    few = options.lines or (_FEW if options.follow else _LINES)
    found = history.entries(which, few + 1, oldest_first=True)
    return [entry.line for entry in found[-few:]], options.lines is None and len(found) > few


def _limit(options: argparse.Namespace) -> int:
    """How many sums to ask for: one more than are shown tells that there are more."""
    return options.lines or _LINES + 1


def _follow(options: argparse.Namespace, history: History, which: Filter) -> None:
    printer = _Printer(options)
    last = history.newest()
    found, _ = _there(options, history, _after(which, None, last))
    while True:
        for line in found:
            printer.show(line)
        sys.stdout.flush()
        time.sleep(_LOOK)
        newest = history.newest()
        if newest < last:  # begun anew
            last = 0
        found = (entry.line for entry in history.lines(_after(which, last, newest)))
        last = newest


def _after(which: Filter, after: int | None, newest: int) -> Filter:
    return replace(which, after=after, before=newest + 1)


# Showing


def _print_lines(options: argparse.Namespace, lines: Iterable[str]) -> None:
    printer = _Printer(options)
    shown = False
    for line in lines:
        printer.show(line)
        shown = True
    sys.stdout.flush()
    if not shown:
        report("nothing like this was logged")


class _Printer:
    """Prints lines as JSON, as CSV or in columns."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._json = options.json
        self._colour = wants_colour(sys.stdout)
        self._csv = _sheet() if options.csv else None
        if self._csv is not None:
            self._csv.writerow(_COLUMNS)

    def show(self, line: str) -> None:
        """One line of the access log."""
        if self._json:
            print(line)
            return
        parsed = LogLine.parse(line)
        if parsed is None:  # the history and LogFile give out lines of the log only
            return
        if self._csv is not None:
            fields = {**parsed.fields, "result": parsed.result}
            self._csv.writerow([_cell(fields.get(column, "")) for column in _COLUMNS])
        else:
            print(columns(parsed, colour=self._colour))


def _sheet() -> Any:
    """A writer of CSV in which each text is json_string."""
    return csv.writer(sys.stdout, quoting=csv.QUOTE_NONNUMERIC)


def _cell(value: object) -> object:
    """A number as it is; text with an apostrophe wherever a formula could begin."""
    return value if isinstance(value, int | float) else _FORMULA.sub(r"\1'", str(value))


def _print_sums(options: argparse.Namespace, found: Sequence[Total]) -> None:
    shown = found[: options.lines or _LINES]
    keys = ("bytes", "accesses", "files", "errors", "last")
    names = (options.by, *(["key_label"] if options.by == "key" else []))
    if options.json:
        for each in shown:
            name = dict(zip(names, (each.name, each.label), strict=False))
            print(json.dumps({**name, **{key: _value(each, key) for key in keys}}))
    elif options.csv:
        writer = _sheet()
        writer.writerow((*names, "bytes", "reads", "files", "errors", "last"))
        for each in shown:
            named = (_cell(each.name), _cell(each.label))[: len(names)]
            writer.writerow((*named, *(_value(each, key) for key in keys)))
    elif shown:
        rows: list[Sequence[str]] = [
            ("BYTES", "READS", "FILES", "ERRORS", "LAST", options.by.upper())
        ]
        rows += [
            (
                formatting.size(each.bytes), str(each.accesses), str(each.files), str(each.errors),
                f"{datetime.fromtimestamp(each.last).astimezone():%Y-%m-%d %H:%M}",
                printable(f"{each.label} {each.name}".lstrip()),
            )
            for each in shown
        ]  # fmt: skip
        _print_table(rows)
    sys.stdout.flush()
    if not found:
        report("nothing like this was logged")
    if len(found) > len(shown):
        report(f"these are the first {len(shown)}: -n N shows more")


def _value(each: Total, key: str) -> object:
    return formatting.stamp(each.last) if key == "last" else getattr(each, key)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        numbers = [cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        print("  ".join((*numbers, row[-1])))
