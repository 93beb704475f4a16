"""Lines of the access log on a terminal: in columns, errors in red."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from typing import Final, TextIO

from sftp_gateway.observability import formatting
from sftp_gateway.observability.access_log.json_lines import printable
from sftp_gateway.observability.access_log.line import MALFORMED, LogLine, timestamp
from sftp_gateway.observability.access_log.sinks import StreamSink
from sftp_gateway.system.containers import in_container

#: Characters of a fingerprint that identify a key without a comment.
_FINGERPRINT_LENGTH: Final = 16

_RED: Final = "\x1b[31m"
_RESET: Final = "\x1b[m"


def wants_colour(stream: TextIO) -> bool:
    """Whether the stream is a terminal that takes colours (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_for_people(stream: TextIO) -> bool:
    """Whether the stream is a terminal, and not that of a container, which a log driver reads."""
    return stream.isatty() and not in_container()


class TerminalSink(StreamSink):
    """Writes lines of the access log to a terminal, in columns."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream.fileno())
        self._colour = wants_colour(stream)

    def write(self, lines: bytes) -> None:
        """As StreamSink; what is not a line of the access log is shown escaped."""
        shown = [self._shown(line) for line in lines.splitlines()]
        super().write("".join(f"{line}\n" for line in shown).encode())

    def _shown(self, line: bytes) -> str:
        with suppress(*MALFORMED):
            parsed = LogLine.parse(line)
            if parsed is not None:
                return columns(parsed, colour=self._colour)
        return printable(line.decode("utf-8", "replace"))


def columns(line: LogLine, *, colour: bool = False) -> str:
    """Time, user, key, address, event and details of a line.

    Raises one of MALFORMED if the gateway did not write it.
    """
    key = line.text("key_label") or line.text("key")[:_FINGERPRINT_LENGTH] or "-"
    text = printable(
        f"{_local(line.time)}  {line.user or '-':<12} {key:<16} "
        f"{line.text('client_ip') or '-':<15} {line.event:<16} {_details(line)}"
    ).rstrip()
    return f"{_RED}{text}{_RESET}" if colour and line.is_error else text


def _details(line: LogLine) -> str:
    fields = line.fields
    if line.event == "source_banned":
        times = f", ban {fields['times']} in a row" if fields["times"] > 1 else ""
        return (
            f"{fields['source']}: {fields['effect']} until {_local(timestamp(fields['until']))} "
            f"for {fields['reason']}{times}"
        )
    if not line.text("session"):
        return " ".join(
            f"{name}={value}"
            for name, value in fields.items()
            if name not in ("time", "event") and value is not None
        )
    details = [
        line.text("operation"),
        line.text("path") or line.text("command"),
        f"-> {line.text('target')}" if "target" in fields else "",
        formatting.size(line.bytes) if line.bytes is not None else "",
        f"({line.outcome})" if line.outcome not in ("", "ok") else "",
        line.text("key") if line.event == "login_refused" else "",
    ]
    return " ".join(filter(None, details))


def _local(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"
