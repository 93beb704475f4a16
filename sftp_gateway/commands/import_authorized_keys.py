"""`sftp-gateway import-authorized-keys`: imports users' keys from another server.

Only files are read and changed; a running gateway picks the change up by itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sftp_gateway.auth.keys.merge import ImportResult, SourceFile, merge_keys
from sftp_gateway.config.bootstrap import AUTHORIZED_KEYS
from sftp_gateway.console import add_config, load, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log.json_lines import printable
from sftp_gateway.server.ssh import algorithms
from sftp_gateway.settings import Settings
from sftp_gateway.system import atomic
from sftp_gateway.system.dirfd import Folder

#: What sshd reads in a user's .ssh folder by default (AuthorizedKeysFile).
_FILE_NAMES: Final = ("authorized_keys", "authorized_keys2")
_SSH: Final = ".ssh"

_PRIVATE: Final = b"PRIVATE KEY-----"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(run=_run)
    parser.epilog = "Exit status: 0 if all keys were imported, 1 if some were not, 2 on an error."
    add_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument(
        "--user",
        metavar="NAME",
        help="whose keys they are; default: the name of the home folder that a file is in, or the "
        "only user of the configuration",
    )
    parser.add_argument(
        "SOURCE",
        nargs="+",
        help="an authorized_keys file, - for standard input, or a folder: of authorized_keys and "
        ".pub files, a .ssh folder, a home, or a folder of homes",
    )


def _run(options: argparse.Namespace) -> int:
    settings = load(options)
    if options.user is not None and options.user not in settings.users:
        raise ConfigurationError([_unknown_user(settings, options.user)])
    files: dict[str, list[SourceFile]] = {}
    skipped = False
    for source in options.SOURCE:
        for path in _files_of(source):
            text = _text(path)
            user = options.user or _owner(path, settings)
            if user not in settings.users:
                report(f"warning: {path} is skipped: {_unknown_user(settings, user)}")
                skipped = True
                continue
            files.setdefault(user, []).append(SourceFile(_name(path), text))
    whole = [_import_files(settings, user, old, options.dry_run) for user, old in files.items()]
    return 0 if all(whole) and not skipped else 1


def _unknown_user(settings: Settings, user: str) -> str:
    return (
        f"there is no user {user}; the configuration has {', '.join(settings.users)}. Add "
        f"[users.{user}] to it, or give --user"
    )


def _files_of(source: str) -> Sequence[Path]:
    """The authorized_keys files that an argument names."""
    path = Path(source)
    if source == "-" or not path.is_dir():
        return [path]
    try:
        found = sorted(file for file in _within(path) if file.is_file())
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {error.strerror}"]) from error
    if not found:
        raise ConfigurationError(
            [f"{path}: contains no authorized_keys or .pub files, and no homes with .ssh"]
        )
    return found


def _within(folder: Path) -> Iterator[Path]:
    for home in (folder, folder / _SSH, *(each / _SSH for each in folder.iterdir())):
        yield from (home / name for name in _FILE_NAMES)
    yield from (folder / AUTHORIZED_KEYS).glob("*")  # a gateway's own, or sshd's with %u
    if folder.name != _SSH:  # there, .pub files are the user's own identities
        yield from folder.glob("*.pub")


def _owner(path: Path, settings: Settings) -> str:
    """Whose keys a file has, by its path."""
    parent = Path(os.path.abspath(path)).parent
    if path != Path("-"):
        if parent.name == _SSH:
            return parent.parent.name
        if parent.name == AUTHORIZED_KEYS:
            return path.name
    if len(settings.users) == 1:
        return next(iter(settings.users))
    raise ConfigurationError(
        [f"{_name(path)}: whose keys? Give --user with one of {', '.join(settings.users)}"]
    )


def _name(path: Path) -> str:
    return "standard input" if path == Path("-") else str(path)


def _text(path: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error
    if _PRIVATE in content:
        raise ConfigurationError(
            [f"{_name(path)} is a private key; give the public key, which ends in .pub"]
        )
    return content.decode("utf-8", "replace")


def _import_files(
    settings: Settings, user: str, files: Sequence[SourceFile], dry_run: bool
) -> bool:
    """Whether every line lets its owner log in now."""
    path = settings.keys_dir / AUTHORIZED_KEYS / user
    try:
        if dry_run:
            _, results = merge_keys(path.read_text("utf-8") if path.exists() else "", files)
        else:
            with Folder.open(path.parent, make=True):
                pass
            results = atomic.change(path, lambda text: merge_keys(text, files))
    except ValueError as error:
        raise ConfigurationError([f"{path}: {error}"]) from error
    except OSError as error:
        raise ConfigurationError([f"{error.filename or path}: {error.strerror}"]) from error
    useless = False
    for result in results:
        why = _why_useless(settings, result)
        useless = useless or bool(why) or result.key is None
        print(printable(_describe(result, why)))
    counts = [
        f"{sum(each.outcome == outcome for each in results)} {outcome}"
        for outcome in ("added", "there already", "refused")
    ]
    also = " (a dry run: nothing was written)" if dry_run else ""
    report(f"{path}: {', '.join(counts)}{also}")
    return not useless


def _describe(result: ImportResult, why: str) -> str:
    what = "" if result.key is None else f"{result.key.fingerprint} ({result.key.comment})"
    return f"{result.file}, line {result.line}: {result.outcome}: " + "; ".join(
        filter(None, [what, result.said, why])
    )


def _why_useless(settings: Settings, result: ImportResult) -> str:
    """Why an imported line lets nobody log in; "" if it does."""
    if result.key is None:
        return ""
    if algorithms.on_nist_curve(result.key.key_type) and not settings.nist_curves:
        return "is on a NIST curve: not accepted unless nist_curves = true"
    if result.key.expires is not None and result.key.expires < datetime.now(UTC):
        return "its expiry-time= has passed"
    return ""
