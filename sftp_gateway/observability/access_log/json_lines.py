r"""Encodes an event as one line of JSON, and paths, which are bytes, as text and back.

Whatever a client sends, a line is valid UTF-8 and valid JSON, and its only line feed is its last
byte. It is safe to show in a terminal or a log viewer: characters that move the cursor, reorder or
break text are written as `\uXXXX`.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
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

#: Number of characters or bytes that are encoded at a time.
_PIECE: Final = 512
_PathDecoder: Final = getincrementaldecoder("utf-8")

#: One encoded character, which truncation must not split: `\u001b`, a path's `\\\\` or `\\xff`,
#: `\n`, or the character itself.
_CHARACTER: Final = re.compile(r"\\u[0-9a-f]{4}|\\\\(?:\\\\|x[0-9a-f]{2})|\\.|[^\\]", re.DOTALL)

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
        if len(value) * _MAX_ESCAPE <= MAX_PATH_LENGTH:
            json = encode_basestring(escape_path(value))
        else:
            json = _long(name, value, MAX_PATH_LENGTH, cut)
    elif isinstance(value, str):
        if len(value) * _MAX_ESCAPE <= MAX_TEXT_LENGTH:
            json = encode_basestring(value)
        else:
            json = _long(name, value, MAX_TEXT_LENGTH, cut)
    elif isinstance(value, int):
        json = str(value).lower()  # true, false
    elif isinstance(value, float):
        json = f'"{_timestamp(value)}"' if name in ("since", "until") else _seconds(value)
    else:
        return ""
    return f',"{name}":{json}'


def _long(name: str, value: str | bytes, limit: int, cut: list[str]) -> str:
    """Encode a long text or path as JSON, truncated to `limit` bytes between its quotes.

    Encodes little more than it keeps, because a character takes up to 0.4 µs.
    """
    decode = _PathDecoder("backslashreplace").decode
    json = '"'
    for start in range(0, len(value), _PIECE):
        piece = value[start : start + _PIECE]
        if isinstance(piece, bytes):
            piece = decode(piece.replace(b"\\", b"\\\\"), start + _PIECE >= len(value))
        json += _safe(encode_basestring(piece))[1:-1]
        if len(json) > 1 + limit:
            break
    encoded = json.encode()
    if len(encoded) <= 1 + limit:
        return json + '"'
    cut.append(name)
    kept = encoded[: 1 + limit].decode(errors="ignore")
    # Only the last character may be split. The last run of backslashes starts a character, as does
    # every fourth of them; after the last three, one may end and the longest one start.
    backslashes = kept[: kept.rfind("\\") + 1]
    start = len(backslashes.rstrip("\\"))
    start += (len(backslashes) - start) // 4 * 4
    if len(kept) - start < 2 + _MAX_ESCAPE:
        while (found := _CHARACTER.match(json, start)) and found.end() <= len(kept):
            start = found.end()
        kept = kept[:start]
    return kept + '"'


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
