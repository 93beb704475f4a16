"""Lines and totals of the access log as columns, tables, CSV or JSON."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from sftp_gateway.console import print_table, report
from sftp_gateway.observability import formatting
from sftp_gateway.observability.access_log.line import LogLine
from sftp_gateway.observability.access_log.terminal import columns, wants_colour
from sftp_gateway.observability.history.queries import Total

#: Lines that are shown if neither a time nor a number is given.
DEFAULT_LINES: Final = 50

#: The columns of a CSV file: keys of the access log.
_COLUMNS: Final = (
    "time", "event", "user", "user_tried", "client_ip", "share", "path", "result", "reason",
    "operation", "bytes", "size", "whole", "duration", "method", "key", "session",
    "client_version", "target", "key_label", "source", "until",
)  # fmt: skip

#: Where a spreadsheet may take text for a formula: at its start, and after separators at which some
#: split cells (OWASP, CSV injection); the last four are full-width forms.
_FORMULA: Final = re.compile(r"(^|[;,|\t\r\n])(?=[\s\"]*[=+\-@\uff1d\uff0b\uff0d\uff20])")


def print_lines(options: argparse.Namespace, lines: Iterable[str]) -> None:
    """Print lines of the access log."""
    printer = LinePrinter(options)
    shown = False
    for line in lines:
        printer.show(line)
        shown = True
    sys.stdout.flush()
    if not shown:
        report("no matching lines")


class LinePrinter:
    """Prints lines as JSON, as CSV or in columns."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._json = options.json
        self._colour = wants_colour(sys.stdout)
        self._csv = _csv_writer() if options.csv else None
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


def _csv_writer() -> Any:
    """A writer of CSV in which each text is quoted."""
    return csv.writer(sys.stdout, quoting=csv.QUOTE_NONNUMERIC)


def _cell(value: object) -> object:
    """A number, or text with an apostrophe wherever a formula could begin."""
    return value if isinstance(value, int | float) else _FORMULA.sub(r"\1'", str(value))


def print_totals(options: argparse.Namespace, found: Sequence[Total]) -> None:
    """Print totals, as a table, as CSV or as JSON."""
    shown = found[: options.lines or DEFAULT_LINES]
    keys = ("bytes", "accesses", "files", "errors", "last")
    names = (options.by, *(["key_label"] if options.by == "key" else []))
    if options.json:
        for each in shown:
            name = dict(zip(names, (each.name, each.label), strict=False))
            print(json.dumps({**name, **{key: _value(each, key) for key in keys}}))
    elif options.csv:
        writer = _csv_writer()
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
                f"{each.label} {each.name}".lstrip(),
            )
            for each in shown
        ]  # fmt: skip
        print_table(rows[0], rows[1:], numbers=range(5))
    sys.stdout.flush()
    if not found:
        report("no matching lines")
    if len(found) > len(shown):
        report(f"showing the first {len(shown)}; use -n N for more")


def _value(each: Total, key: str) -> object:
    return formatting.stamp(each.last) if key == "last" else getattr(each, key)
