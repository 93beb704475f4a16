"""`sftp-gateway keys list`: every key, whether it is valid, and when it was last used."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from sftp_gateway.auth import AuthorizedKey, parse_authorized_keys, parse_revocations
from sftp_gateway.auth.keys.revocations import Revocations
from sftp_gateway.commands.times import show_time
from sftp_gateway.config.bootstrap import (
    AUTHORIZED_KEYS,
    REVOKED_KEYS,
    USER_CA_KEYS,
    host_key_files,
    public_half,
)
from sftp_gateway.console import ignore_broken_pipe, print_table, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.history.last_used import last_used, read_lines, with_rotated_files
from sftp_gateway.observability.history.queries import Filter, History
from sftp_gateway.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedKey:
    """One key, as `--json` prints it; times are RFC 3339 in UTC."""

    user: str | None
    switched_off: bool = False
    role: str = "user"
    fingerprint: str
    type: str
    expires: str | None = None
    expired: bool = False
    revoked: bool = False
    last_used: str | None = None
    options: Sequence[str] = ()
    comment: str


def print_keys(settings: Settings, options: argparse.Namespace) -> None:
    """Print every key, as a table or as JSON."""
    used = _last_used(settings, options.log)
    keys = [*_authorized(settings, used or {}), *_host_keys(settings)]
    with ignore_broken_pipe():
        if options.json:
            for key in keys:
                print(json.dumps(asdict(key)))
            return
        print_table(
            ("USER", "FINGERPRINT", "TYPE", "EXPIRES", "LAST USED", "OPTIONS", "COMMENT"),
            [_row(key, logged=used is not None) for key in keys],
            marked=[number for number, key in enumerate(keys) if key.expired or key.revoked],
        )


def _authorized(settings: Settings, used: Mapping[tuple[str, str], str]) -> Iterator[ListedKey]:
    revoked, now = _revoked(settings), datetime.now(UTC)
    folder = settings.keys_dir / AUTHORIZED_KEYS
    files = [(user, folder / user) for user in (*settings.users, *_switched_off(settings))]
    for user, path in (*files, (None, settings.keys_dir / USER_CA_KEYS)):
        for key in _keys(path):
            authority = user is None or key.authority
            yield ListedKey(
                user=user,
                switched_off=user is not None and user not in settings.users,
                role="authority" if authority else "user",
                fingerprint=key.fingerprint,
                type=key.key_type,
                expires=None if key.expires is None else show_time(key.expires),
                expired=key.expires is not None and key.expires < now,
                revoked=revoked.revokes_key(key.blob),
                last_used=None if user is None else used.get((user, key.fingerprint)),
                options=[
                    *(["cert-authority"] if key.authority else []),
                    *([f"principals={','.join(key.principals)}"] if key.principals else []),
                    *([f"from={key.sources.text}"] if key.sources else []),
                ],
                comment=key.comment,
            )


def _host_keys(settings: Settings) -> Iterator[ListedKey]:
    for path in host_key_files(settings.keys_dir):
        for key in _keys(public_half(path)):
            kind = path.suffix.removeprefix(".") or "current"
            yield ListedKey(
                user=None,
                role=f"host, {kind}",
                fingerprint=key.fingerprint,
                type=key.key_type,
                comment=path.name,
            )


def _row(key: ListedKey, *, logged: bool) -> Sequence[str]:
    if key.role.startswith("host"):
        user, expires, used = f"({key.role})", "-", "-"
    else:
        user = "(authority)" if key.user is None else key.user
        states = [name for name, so in (("expired", key.expired), ("revoked", key.revoked)) if so]
        expires = " ".join([key.expires or "never", *(f"({state})" for state in states)])
        used = "-" if key.role == "authority" or logged else "?"
    return (
        f"{user} (switched off)" if key.switched_off else user,
        key.fingerprint,
        key.type,
        expires,
        key.last_used or used,
        " ".join(key.options) or "-",
        key.comment,
    )


def _switched_off(settings: Settings) -> list[str]:
    """Users who have a file of keys and are not in the configuration."""
    try:
        names = os.listdir(settings.keys_dir / AUTHORIZED_KEYS)
    except OSError:  # reported for each user's own file, if at all
        return []
    return sorted(name for name in names if name[0] != "." and name not in settings.users)


def _keys(path: Path) -> Sequence[AuthorizedKey]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error
    parsed = parse_authorized_keys(text, source=str(path))
    for message in parsed.errors:
        report(f"warning: {message}")
    return parsed.keys


def _revoked(settings: Settings) -> Revocations:
    """What is revoked, as far as it can be read."""
    path = settings.keys_dir / REVOKED_KEYS
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return Revocations()
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error
    revoked, errors = parse_revocations(text, source=str(path))
    for message in errors:
        report(f"warning: {message}")
    return revoked


def _last_used(settings: Settings, logs: Sequence[str] | None) -> dict[tuple[str, str], str] | None:
    """The last login of each user and key; None without a log and a history."""
    file, history = settings.access_log.file, settings.history.file
    lines: Iterable[bytes] = sys.stdin.buffer
    if logs is not None:
        if logs != ["-"]:
            lines = read_lines(map(Path, logs), report=report)
    elif file is not None:
        lines = read_lines(with_rotated_files(file), report=report)
    elif history.exists():
        logins = History(history).lines(Filter(event="login_accepted"))
        lines = (entry.line.encode() for entry in logins)
    else:
        report(
            "The access log tells when keys were last used: give --log FILE, or --log - and pipe it"
        )
        return None
    try:
        found = last_used(lines)
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: cannot be read: {error.strerror}"]) from error
    except sqlite3.Error as error:
        raise ConfigurationError([f"{history}: cannot be read: {error}"]) from error
    return {login: f"{time[:19]}Z" for login, time in found.items()}
