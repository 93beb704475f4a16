"""Makes what is missing at the first start: host key, a worker's key pair, default shares."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sftp_gateway.auth.keys import generate_ed25519
from sftp_gateway.settings import DEFAULT_CONFIG_FILE, Settings

HOST_KEY: Final = "ssh_host_ed25519_key"
WORKER_KEY: Final = "worker_ed25519"
AUTHORIZED_KEYS: Final = "authorized_keys"
#: Host keys that are used if they are there, besides the one that is made at the first start:
#: a server that is replaced may have had them.
NIST_HOST_KEY: Final = "ssh_host_ecdsa_key"
RSA_HOST_KEY: Final = "ssh_host_rsa_key"
OTHER_HOST_KEYS: Final = (NIST_HOST_KEY, RSA_HOST_KEY)
#: What stands behind the name of a host key that is not in use: one that is announced to clients
#: before it is, and one that still is after it was.
NEXT: Final = ".next"
PREVIOUS: Final = ".previous"
#: Authorities whose certificates let their users in, and what is revoked, if they are there.
USER_CA_KEYS: Final = "user_ca_keys"
REVOKED_KEYS: Final = "revoked_keys"
#: What the status page asks for, where others than this machine can reach it.
STATUS_TOKEN: Final = "status_token"  # noqa: S105 - a file's name

_SHARE_TEXT: Final = """\
This folder is the share "{name}" of sftp-gateway.
Whatever you put here, workers that mount the gateway can read. They cannot change anything.
"""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a file is given to: numbers of user and group."""

    uid: int
    gid: int


def set_up(settings: Settings, *, gateway: Owner | None, say: Callable[[str], None]) -> None:
    """Make what is missing; touch nothing that exists. `say` is told of each thing made.

    `gateway` is whom the host key is given to, for a gateway that runs as another user than this
    process (a container); everything else is then given to whoever owns the folder it is in.

    Raises OSError where something cannot be made.
    """
    keys = settings.keys_dir
    first = not (keys / HOST_KEY).exists()
    make_folder(keys)
    if first:
        _make_pair(keys / HOST_KEY, "sftp-gateway host key", owner=gateway)
        say(f"made the host key {keys / HOST_KEY}")
    if not _has_logins(settings):
        _make_worker_key(settings, say)
    _make_token(settings, gateway, say)
    default = Settings.model_fields["shares"].get_default(call_default_factory=True)
    for name, share in settings.shares.items():
        if name in default and share.path == default[name].path:
            _make_share(name, share.path, first=first, say=say)
    if gateway is not None:
        _let_in(settings, gateway, say)


def host_key_files(keys: Path) -> list[Path]:
    """Where host keys may be, in the order in which they are used."""
    names = (HOST_KEY, *OTHER_HOST_KEYS)
    return [keys / f"{name}{suffix}" for suffix in ("", NEXT, PREVIOUS) for name in names]


def public_half(private: Path) -> Path:
    """Where the public key of a pair is."""
    return private.with_name(f"{private.name}.pub")


def _let_in(settings: Settings, gateway: Owner, say: Callable[[str], None]) -> None:
    """Let the gateway's user read what it needs, whatever the umask of whoever made it."""
    keys = settings.keys_dir
    for path in host_key_files(keys):
        if path.is_file() and path.stat().st_uid != gateway.uid:
            os.chown(path, gateway.uid, gateway.gid, follow_symlinks=False)
            say(f"gave {path} to the gateway's user {gateway.uid}")
    authorized = keys / AUTHORIZED_KEYS
    config = DEFAULT_CONFIG_FILE.parent
    hashes = [user.password_hash_file for user in settings.users.values()]
    for path in (keys, authorized, keys / USER_CA_KEYS, keys / REVOKED_KEYS, config):
        _let_read(path, gateway, public=True, say=say)
    for path in authorized.glob("*"):
        _let_read(path, gateway, public=True, say=say)
    for path in (DEFAULT_CONFIG_FILE, token_file(settings), *filter(None, hashes)):
        _let_read(path, gateway, public=False, say=say)


def _let_read(path: Path, gateway: Owner, *, public: bool, say: Callable[[str], None]) -> None:
    """Give the gateway's user the one right that it needs: to read a file, to pass a folder.

    By way of the group where the group has no rights that it could lose, so that nobody else
    gets any; otherwise, for what is no secret, by way of everybody.
    """
    if path.is_symlink() or not path.exists():
        return
    status = path.stat()
    right = 0o1 if path.is_dir() else 0o4
    shift = 6 if status.st_uid == gateway.uid else 3 if status.st_gid == gateway.gid else 0
    if status.st_mode >> shift & right:
        return
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o070:
        os.chown(path, -1, gateway.gid)
        os.chmod(path, mode | right << 3)
    elif public:
        os.chmod(path, mode | right << 3 | right)
    else:
        return
    say(f"let the gateway's user {gateway.uid} read {path}")


def _has_logins(settings: Settings) -> bool:
    """Whether anybody could log in already."""
    folder = settings.keys_dir / AUTHORIZED_KEYS
    return any(
        user.password_hash or user.password_hash_file or (folder / name).exists()
        for name, user in settings.users.items()
    )


def _make_worker_key(settings: Settings, say: Callable[[str], None]) -> None:
    user = next(iter(settings.users), None)
    private = settings.keys_dir / WORKER_KEY
    if user is None or private.exists():
        return
    _make_pair(private, f"sftp-gateway worker {user}", owner=_owner_of(settings.keys_dir))
    folder = settings.keys_dir / AUTHORIZED_KEYS
    make_folder(folder)
    _write(
        folder / user,
        public_half(private).read_text(encoding="ascii"),
        mode=0o644,
        owner=_owner_of(settings.keys_dir),
    )
    say(f"made a key pair for workers, {private}, and let it log in as {user}")


def token_file(settings: Settings) -> Path:
    """Where the status page's token is, if there is one in a file."""
    return settings.status.token_file or settings.keys_dir / STATUS_TOKEN


def _make_token(settings: Settings, gateway: Owner | None, say: Callable[[str], None]) -> None:
    """A token for a status page that others than this machine can reach.

    Who owns the keys can read it, and hand it to who may see the page; the gateway by its group.
    """
    options, path = settings.status, settings.keys_dir / STATUS_TOKEN
    wanted = options.enabled and options.token is None and options.token_file is None
    if not wanted or settings.metrics_are_local or path.exists():
        return
    owner = _owner_of(settings.keys_dir)
    if gateway is not None and owner is not None:
        owner = Owner(owner.uid, gateway.gid)
    _write(path, secrets.token_urlsafe(24) + "\n", mode=0o640 if gateway else 0o600, owner=owner)
    say(f"made a token for the status page, {path}")


def _make_share(name: str, path: Path, *, first: bool, say: Callable[[str], None]) -> None:
    """A missing default share gets a text file, so that the first mount shows something.

    One that is empty at the first start gets it too: Docker makes the folders that it mounts.
    """
    if path.exists() and not (first and path.is_dir() and not any(path.iterdir())):
        return
    make_folder(path)
    text = _SHARE_TEXT.format(name=name)
    _write(path / "README.txt", text, mode=0o644, owner=_owner_of(path))
    say(f"made the share folder {path}")


def _make_pair(private: Path, comment: str, *, owner: Owner | None) -> None:
    pair = generate_ed25519(comment)
    # The public half first: a private key without it would look complete to the next start.
    _write(
        public_half(private),
        pair.public_line.rstrip("\n") + "\n",
        mode=0o644,
        owner=_owner_of(private.parent),
        replace=True,
    )
    _write(private, pair.private_pem.decode("ascii"), mode=0o600, owner=owner)


def _owner_of(path: Path) -> Owner | None:
    """Whoever owns `path`, where this process may give files away."""
    status = os.stat(path)
    return Owner(status.st_uid, status.st_gid) if os.geteuid() == 0 else None


def make_folder(path: Path) -> None:
    """Make a folder that everybody may look into, and those before it, as its parent's owner's."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    for folder in reversed(missing):
        folder.mkdir()
        folder.chmod(0o755)  # whatever the umask is
        owner = _owner_of(folder.parent)
        if owner is not None:
            os.chown(folder, owner.uid, owner.gid)


def _write(path: Path, text: str, *, mode: int, owner: Owner | None, replace: bool = False) -> None:
    """Write a new file that has its mode and owner before it has its content."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_TRUNC if replace else os.O_EXCL)
    descriptor = os.open(path, flags, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        if owner is not None:
            os.fchown(descriptor, owner.uid, owner.gid)
        file.write(text)
