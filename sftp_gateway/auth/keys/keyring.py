"""Edits single lines of an authorized_keys file, as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from sftp_gateway.auth.keys.authorized_keys import AuthorizedKey, parse_authorized_keys
from sftp_gateway.auth.keys.blobs import KEY_TYPES
from sftp_gateway.auth.keys.options import parse_options, split_field

_EXPIRY: Final = re.compile(r'(?:^|,)expiry-time="[^"]*"', re.IGNORECASE)


def key_lines(text: str) -> list[tuple[int, AuthorizedKey]]:
    """The valid keys of a file, each with the index of its line."""
    found = []
    for index, line in enumerate(text.split("\n")):
        parsed = parse_authorized_keys(line, source="")
        found += [(index, key) for key in parsed.keys]
    return found


def add_line(text: str, line: str) -> tuple[str, AuthorizedKey]:
    """The file with `line` appended, and the line's key.

    Raises ValueError if the line is not a key, or the key is already in the file.
    """
    parsed = parse_authorized_keys(line, source="it")
    if parsed.errors:
        raise ValueError(parsed.errors[0].partition(": ")[2])
    if len(parsed.keys) != 1:
        raise ValueError("give one public key, the line of a .pub file")
    (key,) = parsed.keys
    if any(other.blob == key.blob for _, other in key_lines(text)):
        raise ValueError(f"{key.fingerprint} is already in the file")
    ended = text if not text or text.endswith("\n") else text + "\n"
    return f"{ended}{line.strip()}\n", key


def remove_key(text: str, name: str) -> tuple[str, AuthorizedKey]:
    """The file without the lines of a key, and the key. Raises ValueError; see `find`."""
    key = find(text, name)
    gone = {index for index, other in key_lines(text) if other.blob == key.blob}
    lines = text.split("\n")
    return "\n".join(line for index, line in enumerate(lines) if index not in gone), key


def expire_key(text: str, name: str, expires: datetime) -> tuple[str, AuthorizedKey]:
    """The file with this expiry-time on all lines of a key, and the key.

    Raises ValueError; see `find`.
    """
    key = find(text, name)
    return _change(text, key.blob, lambda line: with_expiry(line, expires)), key


def find(text: str, name: str) -> AuthorizedKey:
    """The key with this comment, or whose fingerprint begins with `name` (`SHA256:` is optional).

    Expired keys are considered only if no other key matches. Raises ValueError if no key or more
    than one matches.
    """
    if not name:
        raise ValueError("give a key's fingerprint or comment")
    keys = [key for _, key in key_lines(text)]
    found = [key for key in keys if key.comment == name] or [
        key for key in keys if key.fingerprint.startswith((name, f"SHA256:{name}"))
    ]
    if not found:
        raise ValueError(f"there is no key {name}")
    now = datetime.now(UTC)
    found = [key for key in found if key.expires is None or key.expires > now] or found
    described = dict.fromkeys(f"{key.fingerprint} ({_until(key)})" for key in found)
    if len({key.blob for key in found}) > 1:
        raise ValueError(
            f"{name} matches more than one key; give a fingerprint: {', '.join(described)}"
        )
    return found[0]


def _until(key: AuthorizedKey) -> str:
    if key.expires is None:
        return "does not expire"
    return f"until {key.expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def options_of(text: str, key: AuthorizedKey) -> str:
    """The options of a key as written, without its expiry-time."""
    index = next(index for index, other in key_lines(text) if other.blob == key.blob)
    options, _ = _split(text.split("\n")[index])
    return _without_expiry(options)


def with_expiry(line: str, expires: datetime) -> str:
    """The line with its expiry-time set to `expires`, in UTC and whole seconds."""
    options, rest = _split(line)
    kept = _without_expiry(options)
    moment = expires.astimezone(UTC).strftime("%Y%m%d%H%M%SZ")
    changed = f'expiry-time="{moment}"{"," if kept else ""}{kept}'
    if parse_options(changed).expires != expires.astimezone(UTC).replace(microsecond=0):
        raise ValueError("cannot change the options of that line; edit the file")
    return f"{changed} {rest}"


def _split(line: str) -> tuple[str, str]:
    """The options of a line, which may be empty, and the rest."""
    line = line.strip(" \t\r\ufeff")
    first, rest = split_field(line)
    return ("", line) if first in KEY_TYPES else (first, rest)


def _without_expiry(options: str) -> str:
    return _EXPIRY.sub("", options).strip(",")


def _change(text: str, blob: bytes, change: Callable[[str], str]) -> str:
    lines = text.split("\n")
    for index, key in key_lines(text):
        if key.blob == blob:
            lines[index] = change(lines[index])
    return "\n".join(lines)
