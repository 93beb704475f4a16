r"""How an event becomes one line of JSON, and how names of bytes become text and bytes again.

Three things are held whatever a client sends: a line is valid UTF-8 and valid JSON; it has one
line feed, its last byte; and it shows in a terminal or a log shipper as it is, because every
character that moves the cursor, reorders or breaks text is written as `\uXXXX`.
"""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring
from math import isfinite
from typing import Final

from sftp_gateway.observability.access_log.events import EVENTS, Event, Session, SessionEvent

#: A client chooses these lengths, so they are cut: text (user names, versions), and paths and
#: commands. Both are in bytes as they stand in the line, because one control character becomes six.
#: Linux itself takes no path over PATH_MAX, 4,096 bytes.
MAX_TEXT_LENGTH: Final = 1024
MAX_PATH_LENGTH: Final = 4096

#: No line is longer, in bytes: two paths, three texts, and what is the gateway's own.
MAX_LINE_LENGTH: Final = 12 * 1024

#: Bytes of a line that one byte of a client takes at most: `\u001b`.
_MAX_ESCAPE: Final = 6

#: One character of a client's as it stands in a line, which is never cut in two: `\u001b`, a path's
#: `\\\\` or `\\xff`, `\n`, or itself.
_CHARACTER: Final = r"(?>\\u[0-9a-f]{4}|\\\\(?:\\\\|x[0-9a-f]{2})|\\.|[^\\])"
#: Many of them, then each: text is cut in a few steps.
_CHARACTERS: Final = [re.compile(_CHARACTER + f"{{{n}}}", re.DOTALL) for n in (64, 1)]

# DEL and C1 controls; line and paragraph separator; what reorders text (Arabic letter mark, marks,
# embeddings, overrides, isolates); the byte order mark; surrogates. C0 controls are JSON's own
# business. U+200C and U+200D stay as they are: Devanagari needs them.
_DISTURBING: Final = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff\ufeff"
_UNSAFE: Final = re.compile(f"[{_DISTURBING}]")
_UNSEEN: Final = re.compile(f"[\x00-\x1f{_DISTURBING}]")

_CONTEXT_FIELDS: Final = tuple(field.name for field in fields(Session))
_OWN_FIELDS: Final = {
    kind: tuple(field.name for field in fields(kind) if field.name not in ("time", "session"))
    for kind in EVENTS
}
# Keys of the context that an event has itself: a line never has one key twice.
_SHADOWED: Final = {kind: frozenset(_CONTEXT_FIELDS) & {*own} for kind, own in _OWN_FIELDS.items()}


def encode(event: Event) -> bytes:
    """The event as one line of JSON, with its line feed.

    Keys stand in this order: time, event, the session's, the event's own, truncated. A field
    that is None is left out. `truncated` is there where a client's text was cut, and names the
    keys it was cut in.
    """
    kind = type(event)
    cut: list[str] = []
    context = ""
    if isinstance(event, SessionEvent):
        context, cut_in_context = _encode_session(event.session, _SHADOWED[kind])
        cut.extend(cut_in_context)
    own = "".join([_member(name, getattr(event, name), cut) for name in _OWN_FIELDS[kind]])
    truncated = ',"truncated":["' + '","'.join(cut) + '"]' if cut else ""
    start = f'{{"time":"{_timestamp(event.time)}","event":"{event.name}"'
    return f"{start}{context}{_safe(own)}{truncated}}}\n".encode()


def printable(text: str) -> str:
    r"""`text` with characters escaped as `\uXXXX` that control a terminal or reorder text.

    Text with names in it passes through this before it is printed or put into a page.
    """
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def json_string(text: str) -> str:
    """A text as it stands in a line, with its quotes."""
    return _safe(encode_basestring(text))


def escape_path(path: bytes) -> str:
    r"""Bytes as text: UTF-8 where they are UTF-8, `\xNN` where not, a backslash as `\\`.

    No two byte strings give the same text; `unescape_path` gives the bytes back.
    """
    return path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def unescape_path(text: str) -> bytes:
    r"""The bytes that `escape_path` made `text` of.

    Raises ValueError where a backslash begins neither `\\` nor `\xNN`.
    """
    return re.sub(rb"\\(\\|x[0-9a-f]{2})?", _unescape, text.encode())


def _unescape(match: re.Match[bytes]) -> bytes:
    escape: bytes | None = match[1]
    if escape is None:
        raise ValueError(f"a backslash at byte {match.start()} begins no escape")
    return escape if escape == b"\\" else bytes([int(escape[1:], 16)])


# Ten thousand requests of a session share its context, so its JSON is made once. An entry has about
# 0.8 KiB, and sessions that are gone stay until others take their place.
@lru_cache(maxsize=512)
def _encode_session(session: Session, without: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    cut: list[str] = []
    names = [name for name in _CONTEXT_FIELDS if name not in without]
    members = "".join([_member(name, getattr(session, name), cut) for name in names])
    return _safe(members), tuple(cut)


def _member(name: str, value: object, cut: list[str]) -> str:
    """A field as it follows others in a JSON object; nothing for None.

    By hand: a JSONEncoder sets itself up for each call, for longer than all of this takes.
    """
    if type(value) is int:  # as most are
        return f',"{name}":{value}'
    if name == "command" and isinstance(value, str):
        # Commands come as text or as bytes; in the log they have one form.
        value = value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        json = encode_basestring(escape_path(value[:MAX_PATH_LENGTH]))
        if len(value) * _MAX_ESCAPE > MAX_PATH_LENGTH:
            json = _cut(name, json, MAX_PATH_LENGTH, len(value), cut)
    elif isinstance(value, str):
        json = encode_basestring(value[:MAX_TEXT_LENGTH])
        if len(value) * _MAX_ESCAPE > MAX_TEXT_LENGTH:
            json = _cut(name, json, MAX_TEXT_LENGTH, len(value), cut)
    elif isinstance(value, int):
        json = str(value).lower()  # true, false
    elif isinstance(value, float):
        json = f'"{_timestamp(value)}"' if name in ("since", "until") else _seconds(value)
    else:
        return ""
    return f',"{name}":{json}'


def _cut(name: str, json: str, limit: int, length: int, cut: list[str]) -> str:
    """The JSON of a string of `length`, with at most `limit` bytes between its quotes."""
    json = _safe(json)
    if length <= limit and len(json.encode()) - 2 <= limit:
        return json
    cut.append(name)
    end = 1
    for characters in _CHARACTERS:
        while found := characters.match(json, end, len(json) - 1):
            size = len(found[0].encode())
            if size > limit:
                break
            limit -= size
            end = found.end()
    return json[:end] + '"'


def _seconds(value: float) -> str:
    if not isfinite(value):
        raise ValueError(f"no JSON for {value}")
    return repr(round(value, 6))


def _safe(json: str) -> str:
    """`json` with every character escaped that does more than show."""
    if json.isascii() and "\x7f" not in json:
        return json
    return _UNSAFE.sub(_escape, json)


def _timestamp(seconds: float) -> str:
    """RFC 3339, UTC, microseconds."""
    whole, micro = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_whole_second(whole)}.{micro:06d}Z"


@lru_cache(maxsize=16)
def _whole_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    # A lone surrogate is no character, and readers disagree on what its escape means.
    return "\\ufffd" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"
