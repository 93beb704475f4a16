"""`sftp-gateway import-authorized-keys` and `import-host-key`: takes over from another server.

Files are all that is read and changed; a running gateway takes the change by itself.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sftp_gateway.auth.keys.merge import ImportResult, SourceFile, merge_keys
from sftp_gateway.config.bootstrap import (
    AUTHORIZED_KEYS,
    HOST_KEY,
    NIST_HOST_KEY,
    PREVIOUS,
    RSA_HOST_KEY,
    public_half,
)
from sftp_gateway.console import Load, add_config, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log.json_lines import printable
from sftp_gateway.server.ssh import algorithms, host_keys
from sftp_gateway.settings import Settings
from sftp_gateway.system import atomic
from sftp_gateway.system.dirfd import Folder, Owner

#: What sshd reads in a user's .ssh folder, unless it is told otherwise (AuthorizedKeysFile).
_OLD_NAMES: Final = ("authorized_keys", "authorized_keys2")
_SSH: Final = ".ssh"

_PRIVATE: Final = b"PRIVATE KEY-----"

_STATUS: Final = (
    "Exit status: 0 where all of it was taken, 1 where some of it was not, 2 where nothing was."
)


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser], load: Load) -> None:
    """Add the two to the program's commands; `load` gives the settings of their options."""

    def add(
        name: str, action: Callable[[Settings, argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text} {_STATUS}")
        sub.set_defaults(command=lambda options: action(load(options), options))
        add_config(sub)
        sub.add_argument("--dry-run", action="store_true", help="only say what would be done")
        return sub

    keys = add(
        "import-authorized-keys",
        _import_authorized_keys,
        "Let those log in who could on an OpenSSH server, and say so of each line.",
    )
    keys.add_argument(
        "--user",
        metavar="NAME",
        help="whose keys they are; default: the name of the home folder that a file is in, or the "
        "only user that there is",
    )
    keys.add_argument(
        "SOURCE",
        nargs="+",
        help="an authorized_keys file, - for standard input, or a folder: one of authorized_keys "
        "and .pub files, a .ssh, a home, or one of homes",
    )
    host = add(
        "import-host-key",
        _import_host_keys,
        "Go on with the host keys of another server, so that no worker notices.",
    )
    host.add_argument("FILE", nargs="+", help="a private host key, or the folder that has them")
    host.add_argument(
        "--replace",
        action="store_true",
        help=f"where there is one of that kind already: call it {PREVIOUS}, which is announced to "
        "clients until you delete it",
    )


# Users' keys


def _import_authorized_keys(settings: Settings, options: argparse.Namespace) -> int:
    if options.user is not None and options.user not in settings.users:
        raise ConfigurationError([_no_user(settings, options.user)])
    files: dict[str, list[SourceFile]] = {}
    skipped = False
    for source in options.SOURCE:
        for path in _files_of(source):
            text = _text(path)
            user = options.user or _owner(path, settings)
            if user not in settings.users:
                report(f"warning: {path} is left out: {_no_user(settings, user)}")
                skipped = True
                continue
            files.setdefault(user, []).append(SourceFile(_name(path), text))
    whole = [_take_over(settings, user, old, options.dry_run) for user, old in files.items()]
    return 0 if all(whole) and not skipped else 1


def _no_user(settings: Settings, user: str) -> str:
    return (
        f"{user} is no user; the configuration has {', '.join(settings.users)}. Add [users.{user}] "
        "to it, or say with --user whose keys they are"
    )


def _files_of(source: str) -> Sequence[Path]:
    """The authorized_keys files that are meant by a name."""
    path = Path(source)
    if source == "-" or not path.is_dir():
        return [path]
    try:
        found = sorted(file for file in _within(path) if file.is_file())
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {error.strerror}"]) from error
    if not found:
        raise ConfigurationError(
            [f"{path}: there are no authorized_keys, .pub files, or homes with .ssh in it"]
        )
    return found


def _within(folder: Path) -> Iterator[Path]:
    for home in (folder, folder / _SSH, *(each / _SSH for each in folder.iterdir())):
        yield from (home / name for name in _OLD_NAMES)
    yield from (folder / AUTHORIZED_KEYS).glob("*")  # a gateway's own, or sshd's with %u
    if folder.name != _SSH:  # there they are those of the user's own keys
        yield from folder.glob("*.pub")


def _owner(path: Path, settings: Settings) -> str:
    """Whose keys a file has, as far as its place tells."""
    parent = Path(os.path.abspath(path)).parent
    if path != Path("-"):
        if parent.name == _SSH:
            return parent.parent.name
        if parent.name == AUTHORIZED_KEYS:
            return path.name
    if len(settings.users) == 1:
        return next(iter(settings.users))
    raise ConfigurationError(
        [f"{_name(path)}: whose keys are they? Say --user with one of {', '.join(settings.users)}"]
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
            [f"{_name(path)} is a private key; give the public half, which ends with .pub"]
        )
    return content.decode("utf-8", "replace")


def _take_over(settings: Settings, user: str, files: Sequence[SourceFile], dry_run: bool) -> bool:
    """Whether every line lets its owner in now."""
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
        print(printable(_told(result, why)))
    counts = [
        f"{sum(each.outcome == outcome for each in results)} {outcome}"
        for outcome in ("added", "there already", "refused")
    ]
    also = " (a dry run: nothing was written)" if dry_run else ""
    report(f"{path}: {', '.join(counts)}{also}")
    return not useless


def _told(result: ImportResult, why: str) -> str:
    what = "" if result.key is None else f"{result.key.fingerprint} ({result.key.comment})"
    return f"{result.file}, line {result.line}: {result.outcome}: " + "; ".join(
        filter(None, [what, result.said, why])
    )


def _why_useless(settings: Settings, result: ImportResult) -> str:
    """Why a line lets nobody in although it is taken; "" where it does."""
    if result.key is None:
        return ""
    if algorithms.on_nist_curve(result.key.key_type) and not settings.nist_curves:
        return "is on a NIST curve, and lets nobody in unless nist_curves = true"
    if result.key.expires is not None and result.key.expires < datetime.now(UTC):
        return "its expiry-time= is over"
    return ""


# Host keys


def _import_host_keys(settings: Settings, options: argparse.Namespace) -> int:
    results = []
    for given in options.FILE:
        path = Path(given)
        files = sorted(path.glob("ssh_host_*_key")) if path.is_dir() else [path]
        if not files:
            raise ConfigurationError([f"{path}: there are no ssh_host_*_key files in it"])
        results += [_import_host_key(settings, file, options) for file in files]
    if not any(results):
        return 2
    return 0 if all(results) else 1


def _import_host_key(settings: Settings, path: Path, options: argparse.Namespace) -> bool:
    """Whether the gateway has the key now, and uses it."""
    try:
        private = path.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error
    try:
        line = _public_line(path, private)
        name = _place(line)
        keep = settings.keys_dir / name
        said = _put(keep, private, line, settings, options)
    except ValueError as error:
        print(printable(f"{path}: refused: {error}"))
        return False
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {error.strerror}"]) from error
    unused = name == NIST_HOST_KEY and not settings.nist_curves
    also = "; is on a NIST curve, and not used unless nist_curves = true" if unused else ""
    print(printable(f"{path}: {said}{also}"))
    return not unused


def _public_line(path: Path, private: bytes) -> str:
    try:
        return host_keys.public_line_of(private)
    except ValueError as error:
        if path.suffix == ".pub":
            raise ValueError(f"is the public half; give {path.with_suffix('')}") from None
        if "passphrase" in str(error):
            raise ValueError(
                f"{error}; take it off a copy: cp -p {path} copy && ssh-keygen -p -N '' -f copy"
            ) from None
        raise


def _place(line: str) -> str:
    """The name under which a host key of that type is used."""
    kind = line.split(maxsplit=1)[0]
    if kind == "ssh-ed25519":
        return HOST_KEY
    if kind == "ssh-rsa":
        return RSA_HOST_KEY
    if kind.startswith("ecdsa-sha2-"):
        return NIST_HOST_KEY
    raise ValueError(f"host keys of type {kind} are not used here; clients have given them up too")


def _put(
    place: Path, private: bytes, line: str, settings: Settings, options: argparse.Namespace
) -> str:
    """What was done. Raises ValueError where another key is there."""
    public = public_half(place)
    there = place.exists()
    if there and host_keys.public_line_of(place.read_bytes()).split()[:2] == line.split()[:2]:
        return f"there already as {place}"
    previous = place.with_name(place.name + PREVIOUS)
    if there and not options.replace:
        raise ValueError(
            f"{place} is another key. If workers know the old server's only, give --replace"
        )
    if there and previous.exists():
        raise ValueError(f"{previous} is still there; finish that rotation first")
    if options.dry_run:
        return f"would be {place}; nothing was written"
    with atomic.locked(settings.keys_dir, make=True) as keys:
        # The gateway's user has those that it uses; before the first start `init` sees to that.
        owner = keys.owner_of(place.name) or keys.owner_of(HOST_KEY) or keys.owner
        new = _beside(keys, place, private, mode=0o600, owner=owner)
        new_public = _beside(keys, place, f"{line}\n".encode(), mode=0o644, owner=keys.owner)
        if there:
            for half in (public, place):
                if keys.lstat(half.name):
                    keys.rename(half.name, half.name.replace(place.name, previous.name))
        keys.rename(new_public, public.name)
        keys.rename(new, place.name)
    return f"is {place} now" + (f"; the one that was there is {previous}" if there else "")


def _beside(keys: Folder, place: Path, content: bytes, *, mode: int, owner: Owner | None) -> str:
    name = f".{place.name}.{secrets.token_hex(4)}"
    keys.write_new(name, content, mode=mode, owner=owner)
    return name
