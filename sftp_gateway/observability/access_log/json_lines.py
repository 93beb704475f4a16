r"""Encodes an event as one line of JSON, and paths, which are bytes, as text and back.

Whatever a client sends, a line is valid UTF-8 and valid JSON, and its only line feed is its last
byte. It is safe to show in a terminal or a log viewer: characters that move the cursor, reorder or
break text are written as `\uXXXX`.
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

#: Limits of fields whose length a client chooses: text (user names, versions), and paths and
#: commands. Both are in bytes of the encoded line, in which a control character takes six. Linux
#: accepts no path over PATH_MAX, 4,096 bytes.
MAX_TEXT_LENGTH: Final = 1024
MAX_PATH_LENGTH: Final = 4096

#: Maximum length of a line in bytes: two paths, three texts, and the gateway's own fields.
MAX_LINE_LENGTH: Final = 12 * 1024

#: Maximum number of bytes that one byte from a client becomes: `\u001b`.
_MAX_ESCAPE: Final = 6

#: One encoded character, which truncation must not split: `\u001b`, a path's `\\\\` or `\\xff`,
#: `\n`, or the character itself.
_CHARACTER: Final = r"(?>\\u[0-9a-f]{4}|\\\\(?:\\\\|x[0-9a-f]{2})|\\.|[^\\])"
#: Runs of 64, then single ones, so that truncation takes few steps.
_CHARACTERS: Final = [re.compile(_CHARACTER + f"{{{n}}}", re.DOTALL) for n in (64, 1)]

# DEL and C1 controls; line and paragraph separators; bidirectional controls (marks, embeddings,
# overrides, isolates); the byte order mark; surrogates. JSON itself escapes C0 controls. U+200C and
# U+200D are kept: Devanagari needs them.
_DISTURBING: Final = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff\ufeff"
_UNSAFE: Final = re.compile(f"[{_DISTURBING}]")
_UNSEEN: Final = re.compile(f"[\x00-\x1f{_DISTURBING}]")

_CONTEXT_FIELDS: Final = tuple(field.name for field in fields(Session))
_OWN_FIELDS: Final = {
    kind: tuple(field.name for field in fields(kind) if field.name not in ("time", "session"))
    for kind in EVENTS
}
# Session fields that the event has too, so that no key appears twice in a line.
_SHADOWED: Final = {kind: frozenset(_CONTEXT_FIELDS) & {*own} for kind, own in _OWN_FIELDS.items()}


def encode(event: Event) -> bytes:
    """The event as one line of JSON, including the line feed.

    The keys are in this order: time, event, the session's, the event's own, truncated. Fields that
    are None are omitted. `truncated` lists the keys whose values were cut, if any.
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
    r"""`text` with characters that control a terminal or reorder text escaped as `\uXXXX`.

    Must be applied to text with names from clients before it is printed or put into a page.
    """
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def json_string(text: str) -> str:
    """`text` as a JSON string of a line, with its quotes."""
    return _safe(encode_basestring(text))


def escape_path(path: bytes) -> str:
    r"""A path as text: UTF-8, other bytes as `\xNN`, and a backslash as `\\`.

    The encoding is unique; `unescape_path` is its inverse.
    """
    return path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def unescape_path(text: str) -> bytes:
    r"""The inverse of `escape_path`.

    Raises ValueError for a backslash that begins neither `\\` nor `\xNN`.
    """
    return re.sub(rb"\\(\\|x[0-9a-f]{2})?", _unescape, text.encode())


def _unescape(match: re.Match[bytes]) -> bytes:
    escape: bytes | None = match[1]
    if escape is None:
        raise ValueError(f"the backslash at byte {match.start()} does not begin an escape")
    return escape if escape == b"\\" else bytes([int(escape[1:], 16)])


# All events of a session share these fields, so they are encoded once. An entry takes about 0.8 KiB
# and stays until newer ones evict it.
@lru_cache(maxsize=512)
def _encode_session(session: Session, without: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    cut: list[str] = []
    names = [name for name in _CONTEXT_FIELDS if name not in without]
    members = "".join([_member(name, getattr(session, name), cut) for name in names])
    return _safe(members), tuple(cut)


def _member(name: str, value: object, cut: list[str]) -> str:
    """A field as a member of a JSON object, with a leading comma; "" for None.

    Not by JSONEncoder, whose set-up for each call takes longer than this.
    """
    if type(value) is int:  # the most common
        return f',"{name}":{value}'
    if name == "command" and isinstance(value, str):
        # asyncssh gives commands as str or bytes; log both in the same form.
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
    """Truncate a JSON string, made from `length` bytes, to `limit` bytes between its quotes."""
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
        raise ValueError(f"{value} has no representation in JSON")
    return repr(round(value, 6))


def _safe(json: str) -> str:
    """`json` with all non-printing characters escaped."""
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
    # JSON parsers disagree on lone surrogates (RFC 8259 §8.2).
    return "\\ufffd" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"
