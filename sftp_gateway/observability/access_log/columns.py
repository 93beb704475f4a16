"""Lines of the access log for people: in columns, those that tell of a mishap in red."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TextIO

from sftp_gateway.observability import formatting
from sftp_gateway.observability.access_log.json_lines import visible
from sftp_gateway.observability.access_log.sinks import StreamSink
from sftp_gateway.observability.history.store import result_of
from sftp_gateway.observability.web import tables
from sftp_gateway.system.containers import in_container

#: Of a key without a label, as much of its fingerprint as tells it from others.
_SHORT_KEY: Final = 16

_RED: Final = "\x1b[31m"
_PLAIN: Final = "\x1b[m"

#: Events that tell of a mishap, beside those with such a result.
_BAD: Final = frozenset(
    {"read_failed", "log_dropped", "connections_refused", "source_banned", "configuration_refused",
     "credentials_removed"}
)  # fmt: skip

#: What is raised for a line that is none of the access log.
_NO_LINE: Final = (
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


def wants_colour(stream: TextIO) -> bool:
    """Whether people look at the stream, and want colours (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_for_people(stream: TextIO) -> bool:
    """Whether people look at the stream, and no log driver: a container may have a terminal too."""
    return stream.isatty() and not in_container()


class TerminalSink(StreamSink):
    """Writes lines of the access log to a terminal, in columns."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream.fileno())
        self._colour = wants_colour(stream)

    def write(self, lines: bytes) -> None:
        """As StreamSink, what is no line of the access log as it is."""
        shown = [self._shown(line) for line in lines.splitlines()]
        super().write("".join(f"{line}\n" for line in shown).encode())

    def _shown(self, line: bytes) -> str:
        with suppress(
            ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError
        ):
            return columns(json.loads(line), colour=self._colour)
        return visible(line.decode("utf-8", "replace"))


def columns(fields: Mapping[str, Any], *, colour: bool = False) -> str:
    """A line for people: when, who, by which key, from where, what.

    Raises KeyError and ValueError for what no process of ours has written.
    """
    user = str(fields.get("user") or fields.get("user_tried") or "-")
    label = str(fields.get("key_label") or fields.get("key", "-")[:_SHORT_KEY])
    event = str(fields["event"])
    text = visible(
        f"{_local(fields['time'])}  {user:<12} {label:<16} {fields.get('client_ip', '-')!s:<15} "
        f"{event:<16} {_what(event, fields)}"
    ).rstrip()
    return f"{_RED}{text}{_PLAIN}" if colour and _is_bad(event, fields) else text


def _is_bad(event: str, fields: Mapping[str, Any]) -> bool:
    if event == "worker_exited":
        return fields.get("expected") is False
    return event in _BAD or result_of(event, fields) in ("denied", "refused", "aborted")


def _what(event: str, fields: Mapping[str, Any]) -> str:
    """What a line tells beside who it was."""
    if event == "source_banned":
        times = f", ban {fields['times']} in a row" if fields["times"] > 1 else ""
        return (
            f"{fields['source']}: {fields['effect']} until {_local(fields['until'])} "
            f"for {fields['reason']}{times}"
        )
    if not fields.get("session"):
        own = (
            (name, value)
            for name, value in fields.items()
            if name not in ("time", "event") and value is not None
        )
        return " ".join(f"{name}={value}" for name, value in own)
    outcome = tables.outcome(fields)
    what = [
        str(fields.get("operation", "")),
        str(fields.get("path") or fields.get("command") or ""),
        f"-> {fields['target']}" if "target" in fields else "",
        formatting.size(fields["bytes"]) if isinstance(fields.get("bytes"), int) else "",
        f"({outcome})" if outcome not in ("", "ok") else "",
        str(fields.get("key", "")) if event == "login_refused" else "",
    ]
    return " ".join(filter(None, what))


def _local(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"
