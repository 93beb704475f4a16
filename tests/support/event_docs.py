"""Generates the reference of access log events from annotations and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sftp_gateway.observability.access_log import events as ev
from sftp_gateway.observability.access_log.json_lines import encode
from tests.support.event_examples import EXAMPLES

HEAD: Final = """\
# Access log events

<!-- Written by scripts/generate from sftp_gateway/observability/access_log/events.py. -->

A reference of all events and fields. [The access log](access-log.md) describes how lines are
written and escaped, and what the types mean.

## Every line

| field | type | meaning |
|---|---|---|
| `time` | time | When it happened. |
| `event` | string | The event, as named below. |
| `truncated` | list of strings | The fields of this line that were cut, because a client sent more than [the limits](access-log.md#text-from-clients); left out if none was. |

## Lines of a connection

Every event of a connection carries what is known of the connection by then, so that each line can
be understood alone.

"""  # noqa: E501 - rows of a table

GROUPS: Final[Mapping[str, Sequence[type[ev.Event]]]] = {
    "Connections and logins": (
        ev.Connection, ev.LoginAccepted, ev.LoginRefused, ev.NegotiationFailed,
        ev.CredentialsRemoved, ev.SessionEnded,
    ),
    "Files and folders": (
        ev.FileOpened, ev.FileClosed, ev.ReadFailed, ev.FolderListed, ev.Denied,
    ),
    "Commands": (ev.CommandAnswered, ev.CommandRefused),
    "Requests": (ev.Request,),
    "Missing events": (ev.EventsSuppressed, ev.LogDropped),
    "Server and workers": (
        ev.ServerStarted, ev.ServerStopping, ev.ServerStopped, ev.WorkerStarted, ev.WorkerOutdated,
        ev.WorkerExited,
    ),
    "Refused connections and bans": (ev.ConnectionsRefused, ev.SourceBanned, ev.SourceUnbanned),
    "Configuration": (ev.ConfigurationReloaded, ev.ConfigurationRefused),
}  # fmt: skip

_TYPES: Final = {str: "string", int: "integer", bool: "boolean"}


def described_fields(kind: type[Any]) -> dict[str, tuple[str, str]]:
    """Type and description of each field, by name, in the order of the log."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        field.name: _described(hints[field.name])
        for field in dataclasses.fields(kind)
        if field.name != "session" or kind is ev.Session
    }


def _described(hint: Any) -> tuple[str, str]:
    notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, str)]
    kinds = {"text", "path", "time", "seconds"}
    inner = [
        note
        for part in typing.get_args(getattr(hint, "__origin__", hint))
        for note in getattr(part, "__metadata__", ())
    ]
    bare = getattr(hint, "__origin__", hint)
    parts = [part for part in typing.get_args(bare) or (bare,) if part is not type(None)]
    name = next((note for note in (*notes, *inner) if note in kinds), _TYPES.get(parts[0], ""))
    text = next((note for note in reversed(notes) if note not in kinds), "")
    return name, text


def _words(kind: type[Any]) -> list[tuple[str, Mapping[str, str]]]:
    """Fields with a fixed set of values, and their meanings."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return [
        (name, note)
        for name, hint in hints.items()
        for note in getattr(hint, "__metadata__", ())
        if isinstance(note, Mapping)
    ]


def _table(kind: type[Any]) -> list[str]:
    rows = [
        f"| `{name}` | {type_name} | {text} |"
        for name, (type_name, text) in described_fields(kind).items()
        if name != "time"
    ]
    return ["| field | type | meaning |", "|---|---|---|", *rows, ""] if rows else []


def _event(kind: type[ev.Event]) -> list[str]:
    parts = [f"### `{kind.name}`", "", inspect.cleandoc(kind.__doc__ or ""), "", *_table(kind)]
    for name, words in _words(kind):
        parts += [f"`{name}`:", ""]
        parts += [
            f"- `{word}`{f': {meaning}' if meaning else ''}" for word, meaning in words.items()
        ]
        parts.append("")
    lines = [encode(event).decode().rstrip("\n") for event in EXAMPLES if type(event) is kind]
    return [*parts, "```json", *lines, "```", ""]


def reference() -> str:
    """The whole page."""
    assert {kind for kinds in GROUPS.values() for kind in kinds} == set(ev.EVENTS)
    parts = [*_table(ev.Session)]
    for title, kinds in GROUPS.items():
        parts += [f"## {title}", ""]
        for kind in kinds:
            parts += _event(kind)
    return HEAD + "\n".join(parts).rstrip() + "\n"
