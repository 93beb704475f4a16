"""`sftp-gateway keys`: lists, adds, expires, removes and rotates keys.

Files are all that is changed; a running gateway takes the change by itself, or at SIGHUP.
"""

from __future__ import annotations

import argparse
import re
import sqlite3
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sftp_gateway.auth import (
    AuthorizedKey,
    KeyPair,
    atomic,
    generate_ed25519,
    keyring,
    parse_authorized_keys,
)
from sftp_gateway.auth.key_options import parse_expiry
from sftp_gateway.console import Load, add_config, say
from sftp_gateway.dirfd import Folder, Owner
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.first_start import (
    AUTHORIZED_KEYS,
    HOST_KEY,
    NEXT,
    PREVIOUS,
    USER_CA_KEYS,
    host_key_files,
    public_half,
)
from sftp_gateway.observability.history.queries import Filter, History
from sftp_gateway.observability.json_lines import visible
from sftp_gateway.observability.last_used import last_used, lines_of, with_rotated
from sftp_gateway.settings import Settings

#: How long a key that is rotated stays good.
_OVERLAP: Final = "+7d"

_SPAN: Final = re.compile(r"\+([0-9]{1,5})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
_DASHED: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

_PLAIN_OPTIONS: Final = re.compile(r'[^"\\\x00-\x1f\x7f]+')


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], load: Load) -> None:
    """Add `keys` to the program's commands; `load` gives the settings of its options."""
    text = "List, add, expire, remove and rotate keys."
    actions = commands.add_parser("keys", help=text, description=text).add_subparsers(
        required=True, metavar="ACTION"
    )

    def add(
        name: str, action: Callable[[Settings, argparse.Namespace], None], text: str, *names: str
    ) -> argparse.ArgumentParser:
        def command(options: argparse.Namespace) -> int:
            action(load(options), options)
            return 0

        sub = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        add_config(sub)
        for argument in names:
            sub.add_argument(argument, help=_ARGUMENTS[argument])
        return sub

    listing = add("list", _list, "Print all keys: who, until when, last used.")
    listing.add_argument(
        "--log",
        action="append",
        metavar="FILE",
        help="an access log to find the last logins in, - for standard input; default: the "
        "configured one, with what logrotate has made of it, or the history",
    )
    adding = add("add", _add, "Let a user log in with a public key.", "USER")
    adding.add_argument("FILE", nargs="?", default="-", help="the .pub file; default: - (stdin)")
    adding.add_argument("--from", dest="sources", metavar="ADDRESSES", help="let it in from there")
    adding.add_argument("--expires", metavar="WHEN", help=_ARGUMENTS["WHEN"])
    add("expire", _expire, "Let a key be good until then.", "USER", "KEY", "WHEN")
    add("remove", _remove, "Take a key away.", "USER", "KEY")
    rotating = add(
        "rotate", _rotate, "Make a new pair with a key's options, and let the key expire.",
        "USER", "KEY", "FILE",
    )  # fmt: skip
    rotating.add_argument(
        "--expires", metavar="WHEN", default=_OVERLAP, help=f"of the old key; default: {_OVERLAP}"
    )
    host = add("rotate-host", _rotate_host, "Rotate the host key, step by step.")
    host.add_argument(
        "STEP",
        choices=tuple(_STEPS),
        help="prepare: make the next key, which clients learn at their next login; promote: use "
        "it; finish: forget the previous one",
    )


_ARGUMENTS: Final = {
    "USER": "whose key it is",
    "KEY": "the beginning of its fingerprint, or its comment",
    "WHEN": "+30m, +12h, +7d, now, YYYY-MM-DD, or as in expiry-time=",
    "FILE": "where the new private key is written; the public half goes to FILE.pub",
}


def moment(text: str, now: datetime) -> datetime:
    """A point in time as people write it. Raises ValueError."""
    span = _SPAN.fullmatch(text)
    if text == "now":
        return now
    if span is not None:
        return now + timedelta(**{_UNITS[span[2]]: int(span[1])})
    return parse_expiry(text.replace("-", "") if _DASHED.fullmatch(text) else text)


def _file(settings: Settings, user: str) -> Path:
    if user not in settings.users:
        raise ConfigurationError(
            [f"{user} is no user; the configuration has {', '.join(settings.users)}"]
        )
    return settings.keys_dir / AUTHORIZED_KEYS / user


def _change(path: Path, edit: Callable[[str], tuple[str, AuthorizedKey]]) -> AuthorizedKey:
    try:
        return atomic.change(path, edit)
    except ValueError as error:
        raise ConfigurationError([f"{path}: {error}"]) from error
    except OSError as error:
        raise ConfigurationError([f"{error.filename or path}: {error.strerror}"]) from error


def _moment(text: str) -> datetime:
    try:
        return moment(text, datetime.now(UTC))
    except ValueError as error:
        raise ConfigurationError([f"{text}: {error}"]) from error


def _add(settings: Settings, options: argparse.Namespace) -> None:
    path = _file(settings, options.USER)
    try:
        given = sys.stdin.read() if options.FILE == "-" else Path(options.FILE).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{options.FILE}: cannot be read: {error}"]) from error
    line = given.strip()
    if options.sources is not None:
        if not _PLAIN_OPTIONS.fullmatch(options.sources):
            raise ConfigurationError([f"--from: {options.sources!r} is no list of addresses"])
        line = f'from="{options.sources}" {line}'

    def edit(text: str) -> tuple[str, AuthorizedKey]:
        expiring = line if expires is None else keyring.with_expiry(line, expires)
        return keyring.add_line(text, expiring)

    expires = None if options.expires is None else _moment(options.expires)
    key = _change(path, edit)
    say(f"{key.fingerprint} ({key.comment}) may log in as {options.USER}")


def _expire(settings: Settings, options: argparse.Namespace) -> None:
    when = _moment(options.WHEN)
    key = _change(
        _file(settings, options.USER),
        lambda text: keyring.expire_key(text, options.KEY, when),
    )
    say(f"{key.fingerprint} ({key.comment}) may log in until {_shown(when)}")


def _remove(settings: Settings, options: argparse.Namespace) -> None:
    key = _change(_file(settings, options.USER), lambda text: keyring.remove_key(text, options.KEY))
    say(f"{key.fingerprint} ({key.comment}) may not log in as {options.USER} any more")


def _rotate(settings: Settings, options: argparse.Namespace) -> None:
    path, new = _file(settings, options.USER), Path(options.FILE)
    when = _moment(options.expires)

    def edit(text: str) -> tuple[str, AuthorizedKey]:
        old = keyring.find(text, options.KEY)
        before = keyring.options_of(text, old)
        text, _ = keyring.expire_key(text, old.fingerprint, when)
        text, _ = keyring.add_line(text, f"{before} {pair.public_line}".strip())
        return text, old

    pair = generate_ed25519(f"{options.USER} {datetime.now(UTC):%Y-%m-%d}")
    try:
        with Folder.open(new.parent) as folder:
            _write_pair(folder, new.name, pair, owner=folder.owner)
            try:
                old = _change(path, edit)
            except ConfigurationError:
                for half in (new, public_half(new)):
                    folder.remove(half.name)
                raise
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {error.strerror}"]) from error
    say(f"made {new}, which may log in as {options.USER}; copy it to the worker (mode 600)")
    say(f"{old.fingerprint} ({old.comment}) may log in until {_shown(when)}")


def _write_pair(folder: Folder, private: str, pair: KeyPair, *, owner: Owner | None) -> None:
    """Write both halves; the private one is given to `owner`, the public one to the folder's."""
    public = public_half(Path(private)).name
    try:
        folder.write_new(private, pair.private_pem, mode=0o600, owner=owner)
        try:
            line = f"{pair.public_line}\n".encode()
            folder.write_new(public, line, mode=0o644, owner=folder.owner)
        except OSError:
            folder.remove(private)
            raise
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: cannot be made: {error.strerror}"]) from error


# The host key


def _rotate_host(settings: Settings, options: argparse.Namespace) -> None:
    try:
        with atomic.locked(settings.keys_dir) as keys:
            _STEPS[options.STEP](keys)
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {error.strerror}"]) from error


def _prepare(keys: Folder) -> None:
    if keys.lstat(HOST_KEY + PREVIOUS):
        raise ConfigurationError(
            [f"{keys.path / HOST_KEY}{PREVIOUS} is still there; finish that rotation first"]
        )
    pair = generate_ed25519("sftp-gateway host key")
    _write_pair(keys, HOST_KEY + NEXT, pair, owner=keys.owner_of(HOST_KEY))
    say(
        f"made {keys.path / HOST_KEY}{NEXT}. Clients with `UpdateHostKeys yes` learn it at their "
        "next login; when all have been there: sftp-gateway keys rotate-host promote"
    )


def _promote(keys: Folder) -> None:
    if not keys.lstat(HOST_KEY + NEXT):
        raise ConfigurationError([f"there is no {keys.path / HOST_KEY}{NEXT}; prepare it first"])
    for old, new in (("", PREVIOUS), (NEXT, "")):
        # The public half first: whoever compares it with the key that answers looks at both.
        for half in (".pub", ""):
            if keys.lstat(HOST_KEY + old + half):
                keys.rename(HOST_KEY + old + half, HOST_KEY + new + half)
    say(
        f"{keys.path / HOST_KEY} is the new key now. The old one is announced on, so that this can "
        "be undone; at last: sftp-gateway keys rotate-host finish"
    )


def _finish(keys: Folder) -> None:
    name = HOST_KEY + PREVIOUS
    if not keys.lstat(name):
        raise ConfigurationError([f"there is no {keys.path / name}; nothing is to be finished"])
    for half in (name, f"{name}.pub"):
        keys.remove(half, missing_ok=True)
    say(f"deleted {keys.path / name}; clients forget it at their next login")


_STEPS: Final[dict[str, Callable[[Folder], None]]] = {
    "prepare": _prepare,
    "promote": _promote,
    "finish": _finish,
}


# The list


def _list(settings: Settings, options: argparse.Namespace) -> None:
    used = _last_used(settings, options.log)
    rows: list[Sequence[str]] = [
        ("USER", "FINGERPRINT", "TYPE", "EXPIRES", "LAST USED", "OPTIONS", "COMMENT")
    ]
    files = [(user, _file(settings, user)) for user in settings.users]
    for user, path in (*files, ("(authority)", settings.keys_dir / USER_CA_KEYS)):
        for key in _keys(path):
            seen = "?" if used is None else used.get((user, key.fingerprint), "-")
            rows.append(_row(user, key, "-" if user == "(authority)" or key.authority else seen))
    for path in host_key_files(settings.keys_dir):
        for key in _keys(public_half(path)):
            kind = path.suffix.removeprefix(".") or "current"
            rows.append(
                (f"(host, {kind})", key.fingerprint, key.key_type, "-", "-", "-", path.name)
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(visible(line).rstrip())


def _keys(path: Path) -> Sequence[AuthorizedKey]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error
    parsed = parse_authorized_keys(text, source=str(path))
    for mistake in parsed.mistakes:
        say(f"warning: {mistake}")
    return parsed.keys


def _row(user: str, key: AuthorizedKey, used: str) -> Sequence[str]:
    options = [
        *(["cert-authority"] if key.authority else []),
        *([f"principals={','.join(key.principals)}"] if key.principals else []),
        *([f"from={key.sources.text}"] if key.sources else []),
    ]
    expires = "never" if key.expires is None else _shown(key.expires)
    if key.expires is not None and key.expires < datetime.now(UTC):
        expires += " (over)"
    return (
        user,
        key.fingerprint,
        key.key_type,
        expires,
        used,
        " ".join(options) or "-",
        visible(key.comment),
    )


def _shown(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _last_used(settings: Settings, logs: Sequence[str] | None) -> dict[tuple[str, str], str] | None:
    """The last login of each user and key; None where there is neither log nor history."""
    file, history = settings.access_log.file, settings.history.file
    lines: Iterable[bytes] = sys.stdin.buffer
    if logs is not None:
        if logs != ["-"]:
            lines = lines_of(map(Path, logs), say=say)
    elif file is not None:
        lines = lines_of(with_rotated(file), say=say)
    elif history.exists():
        logins = History(history).lines(Filter(event="login_accepted"))
        lines = (entry.line.encode() for entry in logins)
    else:
        say(
            "When keys were last used is in the access log: give --log FILE, or --log - and pipe it"
        )
        return None
    try:
        found = last_used(lines)
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: cannot be read: {error.strerror}"]) from error
    except sqlite3.Error as error:
        raise ConfigurationError([f"{history}: cannot be read: {error}"]) from error
    return {login: f"{time[:19]}Z" for login, time in found.items()}
