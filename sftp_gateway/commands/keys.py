"""`sftp-gateway keys`: lists, adds, expires, removes and rotates keys.

Files are all that is changed; a running gateway takes the change by itself, or at SIGHUP.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from sftp_gateway.auth import (
    AuthorizedKey,
    KeyPair,
    generate_ed25519,
    parse_authorized_keys,
    parse_revocations,
)
from sftp_gateway.auth.keys import keyring
from sftp_gateway.auth.keys.options import parse_expiry
from sftp_gateway.auth.keys.revocations import Revocations
from sftp_gateway.config.bootstrap import (
    AUTHORIZED_KEYS,
    HOST_KEY,
    NEXT,
    PREVIOUS,
    REVOKED_KEYS,
    STATUS_TOKEN,
    USER_CA_KEYS,
    host_key_files,
    public_half,
)
from sftp_gateway.console import Load, add_config, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log.json_lines import printable
from sftp_gateway.observability.history.last_used import last_used, lines_of, with_rotated
from sftp_gateway.observability.history.queries import Filter, History
from sftp_gateway.settings import Settings
from sftp_gateway.system import atomic
from sftp_gateway.system.dirfd import Folder, Owner

Told = TypeVar("Told")

#: How long a key that is rotated stays good.
_OVERLAP: Final = "+7d"

_SPAN: Final = re.compile(r"\+([0-9]{1,5})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
#: As `keys list` prints them.
_DASHED: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?)?(Z?)"
)

#: How a point in time may be written.
_MOMENTS: Final = (
    "now, +30m, +12h, +7d, 2031-05-06, 2031-05-06T07:08:09Z, or as in expiry-time=: 20310506, "
    "203105060708, 20310506070809, each with Z at the end for UTC, without it in local time"
)

#: What a private key's file begins with: OpenSSH's and PEM, and PuTTY's.
_PRIVATE: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|PuTTY-User-Key-File-")
_RFC4716: Final = "---- BEGIN SSH2 PUBLIC KEY ----"

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

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
    "WHEN": _MOMENTS,
    "FILE": "where the new private key is written: a name is a file among the keys (keys_dir), a "
    "path with / is what it says, - is standard output; the public half goes to FILE.pub",
}


def moment(text: str, now: datetime) -> datetime:
    """A point in time as people write it. Raises ValueError."""
    span = _SPAN.fullmatch(text)
    if text == "now":
        return now
    if span is not None:
        return now + timedelta(**{_UNITS[span[2]]: int(span[1])})
    dashed = _DASHED.fullmatch(text)
    try:
        return parse_expiry("".join(filter(None, dashed.groups())) if dashed else text)
    except ValueError:
        raise ValueError(f"is not a valid time; write {_MOMENTS}") from None


def _file(settings: Settings, user: str) -> Path:
    if user not in settings.users:
        raise ConfigurationError(
            [
                f"{user} is no user; the configuration has {', '.join(settings.users)}. Add "
                f"[users.{user}] to it first"
            ]
        )
    return settings.keys_dir / AUTHORIZED_KEYS / user


def _change(path: Path, edit: Callable[[str], tuple[str, Told]]) -> Told:
    try:
        return atomic.change(path, edit)
    except ValueError as error:
        raise ConfigurationError([f"{path}: {error}"]) from error
    except OSError as error:
        raise ConfigurationError([f"{error.filename or path}: {_why(error)}"]) from error


def _why(error: OSError) -> str:
    if error.errno == errno.EROFS:
        return f"{error.strerror}; in Docker: docker-compose run --rm --no-deps init keys ..."
    return error.strerror or "it cannot be written"


def _moment(text: str) -> datetime:
    try:
        return moment(text, datetime.now(UTC))
    except ValueError as error:
        raise ConfigurationError([f"{text} {error}"]) from error


def _add(settings: Settings, options: argparse.Namespace) -> None:
    path = _file(settings, options.USER)
    line = _given_line(options.FILE)
    if options.sources is not None:
        if not _PLAIN_OPTIONS.fullmatch(options.sources):
            raise ConfigurationError([f"--from: {options.sources!r} is no list of addresses"])
        line = f'from="{options.sources}" {line}'
    expires = None if options.expires is None else _moment(options.expires)
    if expires is not None:
        line = keyring.with_expiry(line, expires)
    try:
        keyring.add_line("", line)
    except ValueError as error:
        raise ConfigurationError([f"{_source(options.FILE)}: {error}"]) from error
    key = _change(path, lambda text: keyring.add_line(text, line))
    report(f"{key.fingerprint} ({key.comment}) may log in as {options.USER}")


def _source(file: str) -> str:
    return "standard input" if file == "-" else file


def _given_line(file: str) -> str:
    """The line of a public key's file, or of standard input."""
    source = _source(file)
    try:
        given = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except OSError as error:
        raise ConfigurationError([f"{source}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError:
        raise ConfigurationError(
            [f"{source}: is not a public key; give one line as a .pub file has it"]
        ) from None
    if _PRIVATE.match(given.lstrip()):
        if file == "-":
            remedy = "give its public half, which is in the file whose name ends in .pub"
        elif (public := public_half(Path(file))).exists():
            remedy = f"give its public half: {public}"
        else:
            remedy = f"make its public half and give that: ssh-keygen -y -f {file} > {public}"
        raise ConfigurationError([f"{source} is a private key; {remedy}"])
    if given.lstrip().startswith(_RFC4716):
        raise ConfigurationError(
            [f"{source} has the format of RFC 4716; convert it: ssh-keygen -i -f {source}"]
        )
    return given.strip()


def _expire(settings: Settings, options: argparse.Namespace) -> None:
    when = _moment(options.WHEN)
    key = _change(
        _file(settings, options.USER),
        lambda text: keyring.expire_key(text, options.KEY, when),
    )
    report(f"{key.fingerprint} ({key.comment}) may log in until {_shown(when)}")


def _remove(settings: Settings, options: argparse.Namespace) -> None:
    key = _change(_file(settings, options.USER), lambda text: keyring.remove_key(text, options.KEY))
    report(f"{key.fingerprint} ({key.comment}) may not log in as {options.USER} any more")


def _rotate(settings: Settings, options: argparse.Namespace) -> None:
    path, new = _file(settings, options.USER), _new_key_file(settings, options.FILE)
    when = _moment(options.expires)
    try:
        with nullcontext() if new is None else Folder.open(new.parent) as folder:
            old, pair = _rotate_key(path, options, when, folder=folder)
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {_why(error)}"]) from error
    if new is None:
        sys.stdout.write(pair.private_pem.decode("ascii"))
        made = "standard output has the new key, which"
    else:
        made = f"made {new}, which"
    report(f"{made} may log in as {options.USER}; copy it to the worker (mode 600)")
    report(f"{old.fingerprint} ({old.comment}) may log in until {_shown(when)}")


def _new_key_file(settings: Settings, file: str) -> Path | None:
    """Where a new private key is written; None for standard output.

    A name alone is among the keys, as is the first start's key: that folder can be written to in
    Docker too, and the owner of the checkout finds it there.
    """
    if file == "-":
        return None
    if "/" in file:
        return Path(file)
    taken = {path.name for path in host_key_files(settings.keys_dir)}
    if file.removesuffix(".pub") in {*taken, USER_CA_KEYS, REVOKED_KEYS, STATUS_TOKEN}:
        raise ConfigurationError([f"{settings.keys_dir / file} has another use; name another file"])
    return settings.keys_dir / file


def _rotate_key(
    path: Path, options: argparse.Namespace, when: datetime, *, folder: Folder | None
) -> tuple[AuthorizedKey, KeyPair]:
    """The old key and the new one, which is written to `folder` if there is one."""
    pair: KeyPair | None = None
    name = Path(options.FILE).name

    def edit(text: str) -> tuple[str, tuple[AuthorizedKey, KeyPair]]:
        nonlocal pair
        old = keyring.find(text, options.KEY)
        if pair is None:  # this is called again if an editor saves the file meanwhile
            # The label stays, so that a worker has one name in the log.
            label = _CONTROL.sub("?", old.comment)
            new = generate_ed25519(label or f"{options.USER} {datetime.now(UTC):%Y-%m-%d}")
            if folder is not None:
                _write_pair(folder, name, new, owner=folder.owner)
            pair = new
        before = keyring.options_of(text, old)
        text, _ = keyring.expire_key(text, old.fingerprint, when)
        text, _ = keyring.add_line(text, f"{before} {pair.public_line}".strip())
        return text, (old, pair)

    try:
        return _change(path, edit)
    except ConfigurationError:
        if folder is not None and pair is not None:
            for half in (name, public_half(Path(name)).name):
                folder.remove(half)
        raise


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
        raise ConfigurationError([f"{error.filename}: cannot be made: {_why(error)}"]) from error


# The host key


def _rotate_host(settings: Settings, options: argparse.Namespace) -> None:
    try:
        with atomic.locked(settings.keys_dir) as keys:
            _STEPS[options.STEP](keys)
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {_why(error)}"]) from error


def _prepare(keys: Folder) -> None:
    if keys.lstat(HOST_KEY + PREVIOUS):
        raise ConfigurationError(
            [f"{keys.path / HOST_KEY}{PREVIOUS} is still there; finish that rotation first"]
        )
    pair = generate_ed25519("sftp-gateway host key")
    _write_pair(keys, HOST_KEY + NEXT, pair, owner=keys.owner_of(HOST_KEY))
    report(
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
    report(
        f"{keys.path / HOST_KEY} is the new key now. The old one is announced on, so that this can "
        "be undone; at last: sftp-gateway keys rotate-host finish"
    )


def _finish(keys: Folder) -> None:
    name = HOST_KEY + PREVIOUS
    if not keys.lstat(name):
        raise ConfigurationError([f"there is no {keys.path / name}; nothing is to be finished"])
    for half in (name, f"{name}.pub"):
        keys.remove(half, missing_ok=True)
    report(f"deleted {keys.path / name}; clients forget it at their next login")


_STEPS: Final[dict[str, Callable[[Folder], None]]] = {
    "prepare": _prepare,
    "promote": _promote,
    "finish": _finish,
}


# The list


def _list(settings: Settings, options: argparse.Namespace) -> None:
    used, revoked = _last_used(settings, options.log), _revoked(settings)
    rows: list[Sequence[str]] = [
        ("USER", "FINGERPRINT", "TYPE", "EXPIRES", "LAST USED", "OPTIONS", "COMMENT")
    ]
    folder = settings.keys_dir / AUTHORIZED_KEYS
    files = [(user, folder / user) for user in (*settings.users, *_switched_off(settings))]
    for user, path in (*files, ("(authority)", settings.keys_dir / USER_CA_KEYS)):
        off = "" if user in settings.users or user == "(authority)" else " (switched off)"
        for key in _keys(path):
            seen = "?" if used is None else used.get((user, key.fingerprint), "-")
            never = user == "(authority)" or key.authority
            shown = "-" if never else seen
            rows.append(_row(user + off, key, shown, revoked.revokes_key(key.blob)))
    for path in host_key_files(settings.keys_dir):
        for key in _keys(public_half(path)):
            kind = path.suffix.removeprefix(".") or "current"
            rows.append(
                (f"(host, {kind})", key.fingerprint, key.key_type, "-", "-", "-", path.name)
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(printable(line).rstrip())


def _switched_off(settings: Settings) -> list[str]:
    """Who has a file of keys, and may not log in with them by this configuration."""
    try:
        names = os.listdir(settings.keys_dir / AUTHORIZED_KEYS)
    except OSError:  # said, if there is anything to say, of each user's own file
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


def _row(user: str, key: AuthorizedKey, used: str, revoked: bool) -> Sequence[str]:
    options = [
        *(["cert-authority"] if key.authority else []),
        *([f"principals={','.join(key.principals)}"] if key.principals else []),
        *([f"from={key.sources.text}"] if key.sources else []),
    ]
    expires = "never" if key.expires is None else _shown(key.expires)
    if key.expires is not None and key.expires < datetime.now(UTC):
        expires += " (expired)"
    if revoked:
        expires += " (revoked)"
    return (
        user,
        key.fingerprint,
        key.key_type,
        expires,
        used,
        " ".join(options) or "-",
        printable(key.comment),
    )


def _shown(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _last_used(settings: Settings, logs: Sequence[str] | None) -> dict[tuple[str, str], str] | None:
    """The last login of each user and key; None where there is neither log nor history."""
    file, history = settings.access_log.file, settings.history.file
    lines: Iterable[bytes] = sys.stdin.buffer
    if logs is not None:
        if logs != ["-"]:
            lines = lines_of(map(Path, logs), report=report)
    elif file is not None:
        lines = lines_of(with_rotated(file), report=report)
    elif history.exists():
        logins = History(history).lines(Filter(event="login_accepted"))
        lines = (entry.line.encode() for entry in logins)
    else:
        report(
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
