"""`sftp-gateway import-host-key`: keeps the host keys of another server."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from sftp_gateway.config.bootstrap import (
    HOST_KEY,
    NIST_HOST_KEY,
    PREVIOUS,
    RSA_HOST_KEY,
    public_half,
)
from sftp_gateway.console import add_config, load
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log.json_lines import printable
from sftp_gateway.server.ssh import host_keys
from sftp_gateway.settings import Settings
from sftp_gateway.system import atomic
from sftp_gateway.system.dirfd import Folder, Owner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(run=_run)
    parser.epilog = "Exit status: 0 if all keys are in use, 1 if some are not, 2 if none is."
    add_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument("FILE", nargs="+", help="a private host key, or the folder that has them")
    parser.add_argument(
        "--replace",
        action="store_true",
        help=f"rename an existing key of that type to {PREVIOUS}, which is announced to clients "
        "until you delete it",
    )


def _run(options: argparse.Namespace) -> int:
    settings = load(options)
    results = []
    for given in options.FILE:
        path = Path(given)
        files = sorted(path.glob("ssh_host_*_key")) if path.is_dir() else [path]
        if not files:
            raise ConfigurationError([f"{path}: contains no ssh_host_*_key files"])
        results += [_import_host_key(settings, file, options) for file in files]
    if not any(results):
        return 2
    return 0 if all(results) else 1


def _import_host_key(settings: Settings, path: Path, options: argparse.Namespace) -> bool:
    """Whether the gateway now has the key and uses it."""
    try:
        private = path.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error
    try:
        line = _public_line(path, private)
        name = _target(line)
        keep = settings.keys_dir / name
        said = _store(keep, private, line, settings, options)
    except ValueError as error:
        print(printable(f"{path}: refused: {error}"))
        return False
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {error.strerror}"]) from error
    unused = name == NIST_HOST_KEY and not settings.nist_curves
    also = "; is on a NIST curve: not used unless nist_curves = true" if unused else ""
    print(printable(f"{path}: {said}{also}"))
    return not unused


def _public_line(path: Path, private: bytes) -> str:
    try:
        return host_keys.public_line_of(private)
    except ValueError as error:
        if path.suffix == ".pub":
            raise ValueError(f"is the public key; give {path.with_suffix('')}") from None
        if "passphrase" in str(error):
            raise ValueError(
                f"{error}; remove it from a copy: cp -p {path} copy && ssh-keygen -p -N '' -f copy"
            ) from None
        raise


def _target(line: str) -> str:
    """The name under which a host key of that type is used."""
    kind = line.split(maxsplit=1)[0]
    if kind == "ssh-ed25519":
        return HOST_KEY
    if kind == "ssh-rsa":
        return RSA_HOST_KEY
    if kind.startswith("ecdsa-sha2-"):
        return NIST_HOST_KEY
    raise ValueError(f"host keys of type {kind} are obsolete and not supported")


def _store(
    target: Path, private: bytes, line: str, settings: Settings, options: argparse.Namespace
) -> str:
    """Store the key; what was done. Raises ValueError if another key is there."""
    public = public_half(target)
    there = target.exists()
    if there and host_keys.public_line_of(target.read_bytes()).split()[:2] == line.split()[:2]:
        return f"there already as {target}"
    previous = target.with_name(target.name + PREVIOUS)
    if there and not options.replace:
        raise ValueError(
            f"{target} is another key. If workers know only the old server's, give --replace"
        )
    if there and previous.exists():
        raise ValueError(f"{previous} still exists; finish that rotation first")
    if options.dry_run:
        return f"would be {target}; nothing was written"
    with atomic.locked(settings.keys_dir, make=True) as keys:
        # The gateway's user has those that it uses; before the first start `init` sees to that.
        owner = keys.owner_of(target.name) or keys.owner_of(HOST_KEY) or keys.owner
        new = _write_new(keys, target, private, mode=0o600, owner=owner)
        new_public = _write_new(keys, target, f"{line}\n".encode(), mode=0o644, owner=keys.owner)
        if there:
            for half in (public, target):
                if keys.lstat(half.name):
                    keys.rename(half.name, half.name.replace(target.name, previous.name))
        keys.rename(new_public, public.name)
        keys.rename(new, target.name)
    return f"is {target} now" + (f"; the one that was there is {previous}" if there else "")


def _write_new(
    keys: Folder, target: Path, content: bytes, *, mode: int, owner: Owner | None
) -> str:
    name = f".{target.name}.{secrets.token_hex(4)}"
    keys.write_new(name, content, mode=mode, owner=owner)
    return name
