"""Makes what is missing at the first start: host key, a worker's key pair, default shares."""

from __future__ import annotations

import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from sftp_gateway.auth.keys.generate import generate_ed25519
from sftp_gateway.config.handover import Handover
from sftp_gateway.config.shares import unresponsive_shares
from sftp_gateway.settings import DEFAULT_CONFIG_FILE, HUB_SHARE, Settings
from sftp_gateway.system.dirfd import Folder, Held, Owner

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


def set_up(
    settings: Settings,
    *,
    gateway: Owner | None,
    report: Callable[[str], None],
    config_file: Path = DEFAULT_CONFIG_FILE,
) -> None:
    """Make what is missing; touch nothing that exists. `report` is told of each thing made.

    `gateway` is the user of a gateway that runs as another one than this process (a container):
    the host keys and all that it writes are handed over to it, from the gateway's user before if
    that has changed, and it may read the rest. What is made for others belongs to the owner of the
    folder it is in.

    To be called in a process of one thread. Raises OSError where something cannot be made.
    """
    first = not (settings.keys_dir / HOST_KEY).exists()
    login, token = not _has_logins(settings), _needs_token(settings)
    if first or login or token or gateway is not None:
        with _keys_folder(settings.keys_dir, strict=gateway is not None) as keys:
            former = _former_gateway(keys)
            if first:
                _make_pair(keys, HOST_KEY, "sftp-gateway host key", owner=gateway)
                report(f"made the host key {keys.path / HOST_KEY}")
            if login:
                _make_worker_key(settings, keys, report)
            if token:
                _make_token(keys, gateway, report)
            if gateway is not None:
                handing = Handover(gateway=gateway, former=former, report=report)
                _let_in(settings, config_file, keys, handing, report)
    default = Settings.model_fields["shares"].get_default(call_default_factory=True)
    wanted = {
        name: share.path
        for name, share in settings.shares.items()
        if name in default and share.path == default[name].path
    }
    unresponsive = unresponsive_shares(wanted)
    for name, path in wanted.items():
        if name in unresponsive:
            report(f"left the share folder {path} as it is: its disk does not answer")
            continue
        try:
            _make_share(name, path, first=first, report=report)
        except OSError as error:  # the other shares are served all the same
            report(f"left the share folder {path} as it is: {error.strerror}")


def host_key_files(keys: Path) -> list[Path]:
    """Where host keys may be, in the order in which they are used."""
    names = (HOST_KEY, *OTHER_HOST_KEYS)
    return [keys / f"{name}{suffix}" for suffix in ("", NEXT, PREVIOUS) for name in names]


def public_half(private: Path) -> Path:
    """Where the public key of a pair is."""
    return private.with_name(f"{private.name}.pub")


@contextmanager
def _keys_folder(path: Path, *, strict: bool) -> Iterator[Folder]:
    """The folder of keys, open, and made if it is missing; `strict`, it must not be a link."""
    if not strict:
        with Folder.open(path, make=True) as keys:
            yield keys
        return
    with Folder.open(path.parent, make=True) as above, above.make_folder(path.name or ".") as keys:
        yield keys


def _former_gateway(keys: Folder) -> Owner | None:
    """The user that the host key was handed over to; None if it is still its folder's owner's."""
    status = keys.lstat(HOST_KEY)
    if status is None or status.st_uid == keys.status.st_uid:
        return None
    return Owner(status.st_uid, status.st_gid)


def _let_in(
    settings: Settings,
    config_file: Path,
    keys: Folder,
    handing: Handover,
    report: Callable[[str], None],
) -> None:
    """Let the gateway's user read what it needs, whatever the umask of whoever made it, and write
    what it writes."""
    for path in host_key_files(settings.keys_dir):
        with _entry(keys, path.name) as key:
            handing.own(key)
    handing.let_read(keys, public=True)
    for name in (AUTHORIZED_KEYS, USER_CA_KEYS, REVOKED_KEYS):
        with _entry(keys, name) as held:
            handing.let_read(held, public=True)
            if isinstance(held, Folder):
                _let_read_users(held, handing)
    with _held(config_file.parent) as config:
        handing.let_read(config, public=True)
    hashes = [user.password_hash_file for user in settings.users.values()]
    for secret in (config_file, *filter(None, hashes)):
        with _held(secret) as file:
            handing.let_read(file, public=False)
    _let_use_what_it_can_do_without(settings, handing, report)


def _let_use_what_it_can_do_without(
    settings: Settings, handing: Handover, report: Callable[[str], None]
) -> None:
    """The status page's token, the log and the history: no start fails because of them."""
    token = token_file(settings)
    try:
        with _held(token) as file:
            handing.let_read(file, public=False, ours=settings.status.token_file is None)
    except OSError as error:
        report(f"warning: {error.filename}: {error.strerror}")
    written = [settings.history.file] if settings.history.enabled else []
    if settings.access_log.file is not None:
        written.append(settings.access_log.file)
    for each in written:
        handing.let_write(each, beside=[other.name for other in written])


def _let_read_users(authorized: Folder, handing: Handover) -> None:
    for name in authorized.names():
        if not name.startswith("."):  # those are editors'
            with _entry(authorized, name) as file:
                handing.let_read(file, public=True)


@contextmanager
def _entry(folder: Folder, name: str) -> Iterator[Held | None]:
    """An entry of the folder, open; None if there is none. Raises OSError for a link."""
    with folder.entry(name) or nullcontext() as held:
        yield held


@contextmanager
def _held(path: Path) -> Iterator[Held | None]:
    """What is at `path`, open, as `_entry` does it."""
    try:
        above = Folder.open(path.parent)
    except FileNotFoundError:
        yield None
        return
    with above, _entry(above, path.name or ".") as held:
        yield held


def _has_logins(settings: Settings) -> bool:
    """Whether anybody could log in already."""
    folder = settings.keys_dir / AUTHORIZED_KEYS
    return any(
        user.password_hash or user.password_hash_file or (folder / name).exists()
        for name, user in settings.users.items()
    )


def _make_worker_key(settings: Settings, keys: Folder, report: Callable[[str], None]) -> None:
    user = next(iter(settings.users), None)
    if user is None or keys.lstat(WORKER_KEY):
        return
    line = _make_pair(keys, WORKER_KEY, f"sftp-gateway worker {user}", owner=keys.owner)
    with keys.make_folder(AUTHORIZED_KEYS) as authorized:
        authorized.write_new(user, line, mode=0o644, owner=keys.owner)
    report(f"made a key pair for workers, {keys.path / WORKER_KEY}, and let it log in as {user}")


def token_file(settings: Settings) -> Path:
    """Where the status page's token is, if there is one in a file."""
    return settings.status.token_file or settings.keys_dir / STATUS_TOKEN


def _needs_token(settings: Settings) -> bool:
    """Whether the status page has no token, and others than this machine can reach it."""
    options = settings.status
    wanted = options.enabled and options.token is None and options.token_file is None
    return wanted and not settings.metrics_are_local and not token_file(settings).exists()


def _make_token(keys: Folder, gateway: Owner | None, report: Callable[[str], None]) -> None:
    """The owner of the keys can read it, and hand it on; the gateway can by its group."""
    owner = keys.owner
    if gateway is not None and owner is not None:
        owner = Owner(owner.uid, gateway.gid)
    token = f"{secrets.token_urlsafe(24)}\n".encode()
    keys.write_new(STATUS_TOKEN, token, mode=0o640 if gateway else 0o600, owner=owner)
    report(f"made a token for the status page, {keys.path / STATUS_TOKEN}")


def _make_share(name: str, path: Path, *, first: bool, report: Callable[[str], None]) -> None:
    """A missing default share gets a text file, so that the first mount shows something.

    One that is empty at the first start gets it too: Docker makes the folders that it mounts. One
    that is a link is left as it is. The Hugging Face cache stays empty: huggingface_hub warns of
    what it has not put there itself.
    """
    if not first and path.exists():
        return
    with Folder.open(path.parent, make=True) as above:
        status = above.lstat(path.name)
        if status is not None and not (first and stat.S_ISDIR(status.st_mode)):
            return
        with above.make_folder(path.name) as share:
            if status is not None and share.names():
                return
            if name != HUB_SHARE:
                text = _SHARE_TEXT.format(name=name).encode()
                share.write_new("README.txt", text, mode=0o644, owner=share.owner)
            elif status is not None:
                return
    report(f"made the share folder {path}")


def _make_pair(keys: Folder, private: str, comment: str, *, owner: Owner | None) -> bytes:
    """Make a pair; return its public line."""
    pair = generate_ed25519(comment)
    line = pair.public_line.rstrip("\n").encode() + b"\n"
    # The public half first: a private key without it would look complete to the next start.
    public = public_half(Path(private)).name
    with _entry(keys, public):
        keys.remove(public, missing_ok=True)
    keys.write_new(public, line, mode=0o644, owner=keys.owner)
    keys.write_new(private, pair.private_pem, mode=0o600, owner=owner)
    return line
