"""Creates missing files at the first start: the host key, a worker's key pair, default shares."""

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
#: Further host keys, used if they exist. They are never generated, but a replaced server may have
#: had them.
NIST_HOST_KEY: Final = "ssh_host_ecdsa_key"
RSA_HOST_KEY: Final = "ssh_host_rsa_key"
OTHER_HOST_KEYS: Final = (NIST_HOST_KEY, RSA_HOST_KEY)
#: Suffixes of host keys that are announced to clients (UpdateHostKeys of ssh_config(5)) before and
#: after they are in use.
NEXT: Final = ".next"
PREVIOUS: Final = ".previous"
#: Optional files of certificate authorities and of revoked keys and certificates.
USER_CA_KEYS: Final = "user_ca_keys"
REVOKED_KEYS: Final = "revoked_keys"
#: The token of the status page, required if other machines can reach the page.
STATUS_TOKEN: Final = "status_token"  # noqa: S105 - a file's name

_SHARE_TEXT: Final = """\
This folder is the share "{name}" of sftp-gateway.
Workers that mount the gateway can read the files in it, but cannot change them.
"""


def set_up(
    settings: Settings,
    *,
    gateway: Owner | None,
    report: Callable[[str], None],
    config_file: Path = DEFAULT_CONFIG_FILE,
) -> None:
    """Create missing files, without changing existing ones; `report` gets a line for each.

    `gateway` is the user of a gateway that runs as another user than this process (in a container).
    It becomes the owner of the host keys and of all files that the gateway writes (also if they
    belong to a former gateway user), and gets read access to the others. Other new files belong to
    the owner of their folder.

    Must be called in a single-threaded process. Raises OSError if a file cannot be created.
    """
    first = not (settings.keys_dir / HOST_KEY).exists()
    login, token = not _has_logins(settings), _needs_token(settings)
    if first or login or token or gateway is not None:
        with _keys_folder(settings.keys_dir, strict=gateway is not None) as keys:
            former = _former_gateway(keys)
            if first:
                _make_pair(keys, HOST_KEY, "sftp-gateway host key", owner=gateway)
                report(f"generated host key {keys.path / HOST_KEY}")
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
            report(f"skipped share folder {path}: its disk does not answer")
            continue
        try:
            _make_share(name, path, first=first, report=report)
        except OSError as error:  # the other shares do not depend on it
            report(f"skipped share folder {path}: {error.strerror}")


def host_key_files(keys: Path) -> list[Path]:
    """The paths of all possible host keys, in order of preference."""
    names = (HOST_KEY, *OTHER_HOST_KEYS)
    return [keys / f"{name}{suffix}" for suffix in ("", NEXT, PREVIOUS) for name in names]


def public_half(private: Path) -> Path:
    """The path of the public key of a pair."""
    return private.with_name(f"{private.name}.pub")


@contextmanager
def _keys_folder(path: Path, *, strict: bool) -> Iterator[Folder]:
    """Open the folder of keys; create it if missing. With `strict` it must not be a link."""
    if not strict:
        with Folder.open(path, make=True) as keys:
            yield keys
        return
    with Folder.open(path.parent, make=True) as above, above.make_folder(path.name or ".") as keys:
        yield keys


def _former_gateway(keys: Folder) -> Owner | None:
    """The owner of the host key; None if it is the owner of the folder."""
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
    """Grant the gateway's user access to its files, independent of the umask of their creator."""
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
    """Grant access to the token, the log and the history; errors here do not prevent the start."""
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
        if not name.startswith("."):  # editors' temporary files
            with _entry(authorized, name) as file:
                handing.let_read(file, public=True)


@contextmanager
def _entry(folder: Folder, name: str) -> Iterator[Held | None]:
    """Open an entry of the folder; None if it does not exist. Raises OSError for a link."""
    with folder.entry(name) or nullcontext() as held:
        yield held


@contextmanager
def _held(path: Path) -> Iterator[Held | None]:
    """Open the file or folder at `path`; see `_entry`."""
    try:
        above = Folder.open(path.parent)
    except FileNotFoundError:
        yield None
        return
    with above, _entry(above, path.name or ".") as held:
        yield held


def _has_logins(settings: Settings) -> bool:
    """Whether any user has a password or an authorized_keys file."""
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
    report(f"generated worker key {keys.path / WORKER_KEY} and authorized it for user {user}")


def token_file(settings: Settings) -> Path:
    """The path of the status page's token."""
    return settings.status.token_file or settings.keys_dir / STATUS_TOKEN


def _needs_token(settings: Settings) -> bool:
    """Whether the status page lacks a token although other machines can reach it."""
    options = settings.status
    wanted = options.enabled and options.token is None and options.token_file is None
    return wanted and not settings.metrics_are_local and not token_file(settings).exists()


def _make_token(keys: Folder, gateway: Owner | None, report: Callable[[str], None]) -> None:
    """Create the token, readable by the owner of the keys and by the gateway's group."""
    owner = keys.owner
    if gateway is not None and owner is not None:
        owner = Owner(owner.uid, gateway.gid)
    token = f"{secrets.token_urlsafe(24)}\n".encode()
    keys.write_new(STATUS_TOKEN, token, mode=0o640 if gateway else 0o600, owner=owner)
    report(f"generated status page token {keys.path / STATUS_TOKEN}")


def _make_share(name: str, path: Path, *, first: bool, report: Callable[[str], None]) -> None:
    """Create a missing default share, with a README.txt so that the first mount is not empty.

    At the first start an existing empty folder gets one too, because Docker creates the folders
    that it mounts. Links are left alone. The Hugging Face cache stays empty: huggingface_hub warns
    about foreign files.
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
    report(f"created share folder {path}")


def _make_pair(keys: Folder, private: str, comment: str, *, owner: Owner | None) -> bytes:
    """Generate a key pair; return its public line."""
    pair = generate_ed25519(comment)
    line = pair.public_line.rstrip("\n").encode() + b"\n"
    # The public key first: the next start would not recreate it for an existing private key.
    public = public_half(Path(private)).name
    with _entry(keys, public):
        keys.remove(public, missing_ok=True)
    keys.write_new(public, line, mode=0o644, owner=keys.owner)
    keys.write_new(private, pair.private_pem, mode=0o600, owner=owner)
    return line
