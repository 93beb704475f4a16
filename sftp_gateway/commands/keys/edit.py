"""`sftp-gateway keys add`, `expire`, `remove` and `rotate`: changes a user's authorized keys."""

from __future__ import annotations

import argparse
import errno
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from sftp_gateway.auth import AuthorizedKey, KeyPair, generate_ed25519
from sftp_gateway.auth.keys import keyring
from sftp_gateway.commands.times import parse_expiry_time, show_time
from sftp_gateway.config.bootstrap import (
    AUTHORIZED_KEYS,
    REVOKED_KEYS,
    STATUS_TOKEN,
    USER_CA_KEYS,
    host_key_files,
    public_half,
)
from sftp_gateway.console import report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings import Settings
from sftp_gateway.system import atomic
from sftp_gateway.system.dirfd import Folder, Owner

Result = TypeVar("Result")

#: How a private key file begins: OpenSSH's and PEM, and PuTTY's.
_PRIVATE: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|PuTTY-User-Key-File-")
_RFC4716: Final = "---- BEGIN SSH2 PUBLIC KEY ----"

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN_OPTIONS: Final = re.compile(r'[^"\\\x00-\x1f\x7f]+')


def _file(settings: Settings, user: str) -> Path:
    """The file of a user's keys, also of one who is switched off and has keys to take away."""
    path = settings.keys_dir / AUTHORIZED_KEYS / user
    known = user in settings.users or (Path(user).name == user and path.is_file())
    if not known:
        raise ConfigurationError(
            [
                f"there is no user {user}; the configuration has {', '.join(settings.users)}. Add "
                f"[users.{user}] to it first"
            ]
        )
    return path


def _change(path: Path, edit: Callable[[str], tuple[str, Result]]) -> Result:
    try:
        return atomic.change(path, edit)
    except ValueError as error:
        raise ConfigurationError([f"{path}: {error}"]) from error
    except OSError as error:
        raise ConfigurationError([f"{error.filename or path}: {failure(error)}"]) from error


def failure(error: OSError) -> str:
    """Why a file cannot be written, and what to do in Docker."""
    if error.errno == errno.EROFS:
        return f"{error.strerror}; in Docker: docker-compose run --rm --no-deps init keys ..."
    return error.strerror or "cannot be written"


def _expiry(text: str) -> datetime:
    try:
        return parse_expiry_time(text, datetime.now(UTC))
    except ValueError as error:
        raise ConfigurationError([str(error)]) from error


def add_key(settings: Settings, options: argparse.Namespace) -> None:
    """Add a public key to a user's file."""
    path = _file(settings, options.USER)
    line = _given_line(options.FILE)
    if options.sources is not None:
        if not _PLAIN_OPTIONS.fullmatch(options.sources):
            raise ConfigurationError([f"--from: {options.sources!r} is not a list of addresses"])
        line = f'from="{options.sources}" {line}'
    expires = None if options.expires is None else _expiry(options.expires)
    if expires is not None:
        line = keyring.with_expiry(line, expires)
    try:
        keyring.add_line("", line)
    except ValueError as error:
        raise ConfigurationError([f"{_source(options.FILE)}: {error}"]) from error
    key = _change(path, lambda text: keyring.add_line(text, line))
    report(f"{key.fingerprint} ({key.comment}) can log in as {options.USER}")


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
            [f"{source}: not a public key; give the one line of a .pub file"]
        ) from None
    if _PRIVATE.match(given.lstrip()):
        if file == "-":
            remedy = "give the public key, in the file whose name ends in .pub"
        elif (public := public_half(Path(file))).exists():
            remedy = f"give the public key: {public}"
        else:
            remedy = f"derive the public key and give that: ssh-keygen -y -f {file} > {public}"
        raise ConfigurationError([f"{source} is a private key; {remedy}"])
    if given.lstrip().startswith(_RFC4716):
        raise ConfigurationError(
            [f"{source} has the format of RFC 4716; convert it: ssh-keygen -i -f {source}"]
        )
    return given.strip()


def expire_key(settings: Settings, options: argparse.Namespace) -> None:
    """Set when a key expires."""
    when = _expiry(options.WHEN)
    key = _change(
        _file(settings, options.USER),
        lambda text: keyring.expire_key(text, options.KEY, when),
    )
    report(f"{key.fingerprint} ({key.comment}) can log in until {show_time(when)}")


def remove_key(settings: Settings, options: argparse.Namespace) -> None:
    """Remove a key."""
    key = _change(_file(settings, options.USER), lambda text: keyring.remove_key(text, options.KEY))
    report(f"{key.fingerprint} ({key.comment}) can no longer log in as {options.USER}")


def rotate_key(settings: Settings, options: argparse.Namespace) -> None:
    """Create a key pair with the options of a key, and let that key expire."""
    path, new = _file(settings, options.USER), _new_key_file(settings, options.FILE)
    when = _expiry(options.expires)
    try:
        with nullcontext() if new is None else Folder.open(new.parent) as folder:
            old, pair = _rotate(path, options, when, folder=folder)
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {failure(error)}"]) from error
    if new is None:
        sys.stdout.write(pair.private_pem.decode("ascii"))
        made = "printed the new key, which"
    else:
        made = f"created {new}, which"
    report(f"{made} can log in as {options.USER}; copy it to the worker (mode 600)")
    report(f"{old.fingerprint} ({old.comment}) can log in until {show_time(when)}")


def _new_key_file(settings: Settings, file: str) -> Path | None:
    """Where a new private key is written; None for standard output.

    A bare name is a file in keys_dir, which is writable in Docker too.
    """
    if file == "-":
        return None
    if "/" in file:
        return Path(file)
    taken = {path.name for path in host_key_files(settings.keys_dir)}
    if file.removesuffix(".pub") in {*taken, USER_CA_KEYS, REVOKED_KEYS, STATUS_TOKEN}:
        raise ConfigurationError([f"{settings.keys_dir / file} is reserved; choose another name"])
    return settings.keys_dir / file


def _rotate(
    path: Path, options: argparse.Namespace, when: datetime, *, folder: Folder | None
) -> tuple[AuthorizedKey, KeyPair]:
    """The old key and the new one, which is written to `folder` if there is one."""
    pair: KeyPair | None = None
    name = Path(options.FILE).name

    def edit(text: str) -> tuple[str, tuple[AuthorizedKey, KeyPair]]:
        nonlocal pair
        old = keyring.find(text, options.KEY)
        if pair is None:  # `change` calls this again if an editor saves the file meanwhile
            # The label stays, so that a worker has one name in the log.
            label = _CONTROL.sub("?", old.comment)
            new = generate_ed25519(label or f"{options.USER} {datetime.now(UTC):%Y-%m-%d}")
            if folder is not None:
                write_pair(folder, name, new, owner=folder.owner)
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


def write_pair(folder: Folder, private: str, pair: KeyPair, *, owner: Owner | None) -> None:
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
        raise ConfigurationError(
            [f"{error.filename}: cannot be created: {failure(error)}"]
        ) from error
