"""Looks at everything the configuration points to, and says every mistake at once."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import aiofiles

from sftp_gateway.auth import (
    AuthorizedKeys,
    Credentials,
    HostKey,
    Networks,
    Trust,
    check_hash,
    is_cheap,
    parse_authorized_keys,
    parse_revocations,
    private_key_errors,
    public_file_errors,
    writable_by_others,
)
from sftp_gateway.config.bootstrap import (
    AUTHORIZED_KEYS,
    HOST_KEY,
    NIST_HOST_KEY,
    REVOKED_KEYS,
    USER_CA_KEYS,
    host_key_files,
    token_file,
)
from sftp_gateway.config.shares import OwnedPath, ShareProbe, containing_own_files, nested_shares
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.sandbox import policy
from sftp_gateway.server.ssh import algorithms, host_keys
from sftp_gateway.settings import (
    ENV_FILE,
    SHORTEST_TOKEN,
    AccessLogSettings,
    Settings,
    UserSettings,
    default_users,
)

_NO_KEYS: Final = AuthorizedKeys((), ())

#: A status page that asks for it is shown to nobody. Made once, so that what is read again compares
#: equal.
_UNKNOWN_TOKEN: Final = secrets.token_urlsafe(32)


@dataclass(slots=True)
class Findings:
    """What was found. With `errors` the gateway does not start; `warnings` are only said.

    `away` says which shares cannot be read: the others are served all the same.
    """

    errors: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    credentials: list[Credentials] = field(default_factory=list)
    trust: Trust = field(default_factory=Trust)
    host_keys: list[HostKey] = field(default_factory=list)
    roots: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Device and inode of each share's folder."""
    status_token: str | None = None


async def validate(
    settings: Settings,
    *,
    config_file: Path,
    probes: Mapping[str, ShareProbe],
    running: Settings | None = None,
) -> Findings:
    """Look at keys, passwords and files that `settings` name; `probes` says how the shares look.

    While a gateway is `running`, a share that has come to contain its files is a warning: who may
    log in does not depend on it.
    """
    findings = Findings()
    await _inspect_host_keys(settings, findings)
    await _inspect_trust(settings, findings)
    for name, user in settings.users.items():
        await _inspect_user(settings, name, user, findings)
    _inspect_writers(settings, config_file, findings)
    _inspect_default_users(settings, findings)
    _inspect_shares(settings, config_file, probes, running, findings)
    _inspect_access_log(settings.access_log, findings)
    _inspect_sandbox(settings, probes, findings)
    await _inspect_status(settings, findings)
    _inspect_history(settings, findings)
    try:
        algorithms.ciphers(settings.ciphers, has_aes=True)
    except ConfigurationError as error:
        findings.errors += error.errors
    findings.errors = settings.origins.located(findings.errors)
    findings.away = settings.origins.located(findings.away)
    findings.warnings = [
        *settings.origins.located(findings.warnings),
        *settings.origins.overridden,
    ]
    return findings


def watched_files(settings: Settings, config_file: Path) -> list[Path]:
    """Files whose change is a new configuration or new credentials, whether they are there or
    not; and what keeps the history from its place, so that it returns there."""
    keys = settings.keys_dir
    hashes = [user.password_hash_file for user in settings.users.values()]
    return [
        config_file,
        *host_key_files(keys),
        keys / USER_CA_KEYS,
        keys / REVOKED_KEYS,
        *(keys / AUTHORIZED_KEYS / name for name in settings.users),
        *filter(None, hashes),
        token_file(settings),
        *unwritable_history(settings),
    ]


async def _inspect_host_keys(settings: Settings, findings: Findings) -> None:
    found = [path for path in host_key_files(settings.keys_dir) if _is_there(path)]
    if not settings.nist_curves:
        for path in [path for path in found if path.stem == NIST_HOST_KEY]:
            found.remove(path)
            findings.warnings.append(
                f"{path}: is on a NIST curve and not used; delete it, or set nist_curves = true"
            )
    if not any(path.suffix == "" for path in found):
        findings.errors.append(
            f"keys_dir: there is no host key {settings.keys_dir / HOST_KEY}; run "
            "`sftp-gateway init`, which makes one, or put the old server's there"
        )
    errors = [message for path in found for message in private_key_errors(path)]
    findings.errors += errors
    if errors:
        return
    try:
        for path in found:
            async with aiofiles.open(path, "rb") as file:
                findings.host_keys.append(HostKey(path=path, private=await file.read()))
        host_keys.load(findings.host_keys)
    except OSError as error:
        findings.errors.append(f"{error.filename}: cannot be read: {error.strerror}")
    except ConfigurationError as error:
        findings.errors += error.errors


async def _inspect_trust(settings: Settings, findings: Findings) -> None:
    path = settings.keys_dir / USER_CA_KEYS
    authorities = await _authorized_keys(path, settings, findings)
    if any(key.authority or key.principals for key in authorities.keys):
        # It would let the authority say who anybody is, where a user's own line says for whom.
        findings.errors.append(
            f"{path}: cert-authority and principals= belong into a user's authorized_keys; each "
            "key here is an authority already, for certificates that name the user as a principal"
        )
    path = settings.keys_dir / REVOKED_KEYS
    revoked = Trust().revoked
    if _is_safe(path, findings):
        text = await _text(path, findings)
        if text is not None:
            revoked, errors = parse_revocations(text, source=str(path))
            findings.errors += errors
    findings.trust = Trust(authorities=authorities, revoked=revoked)


async def _inspect_user(
    settings: Settings, name: str, user: UserSettings, findings: Findings
) -> None:
    path = settings.keys_dir / AUTHORIZED_KEYS / name
    errors = len(findings.errors)
    keys = await _authorized_keys(path, settings, findings)
    password_hash = await _password_hash(name, user, findings)
    if password_hash is not None:
        try:
            if is_cheap(check_hash(password_hash)):
                findings.warnings.append(
                    f"users.{name}.password_hash: its parameters (m, t) are below OWASP's minimum "
                    "for argon2id, so passwords are cheap to guess for whoever gets the hash; "
                    "make a new one with `sftp-gateway hash-password`"
                )
        except ValueError as error:
            findings.errors.append(f"users.{name}.password_hash: {error}")
            password_hash = None
    authorities = findings.trust.authorities.keys
    lets_in = keys.keys or authorities or password_hash is not None
    if not lets_in and len(findings.errors) == errors:  # which would be why
        findings.warnings.append(
            f"users.{name}: nothing lets this user log in; put public keys into "
            f"{settings.keys_dir / AUTHORIZED_KEYS / name}, or set a password_hash"
        )
    findings.credentials.append(
        Credentials(
            user=name,
            keys=keys,
            password_hash=password_hash,
            allow_from=Networks.parse(user.allow_from),
        )
    )


def _inspect_writers(settings: Settings, config_file: Path, findings: Findings) -> None:
    """Whoever can write what says who may log in can log in, as sshd's StrictModes has it.

    Only a warning where a group can: many systems give each user a group, and an umask of 002.
    """
    users = settings.users.values()
    hashes = [user.password_hash_file for user in users if user.password_hash_file is not None]
    in_config = any(user.password_hash is not None for user in users)
    for path in dict.fromkeys([config_file, *hashes]):
        mode = writable_by_others(path)
        if mode is None or not (mode & 0o002 or path in hashes or in_config):
            continue
        who = "everybody" if mode & 0o002 else "its group"
        (findings.errors if mode & 0o002 else findings.warnings).append(
            f"{path}: can be written by {who} (mode {mode:04o}), who could let themselves in; "
            f"run: chmod go-w {path}"
        )


def _inspect_default_users(settings: Settings, findings: Findings) -> None:
    """One that nobody named may be one that nobody wants: earlier, others took its place."""
    with_keys = {each.user for each in findings.credentials if each.keys.keys}
    for name in default_users().keys() & settings.users.keys() & with_keys:
        if len(settings.users) > 1 and not settings.users[name].model_fields_set:
            findings.warnings.append(
                f"users.{name}: this default user may log in beside the others; users.{name} = "
                f'false switches it off, and shares = "*" below [users.{name}] ends this warning'
            )


async def _authorized_keys(path: Path, settings: Settings, findings: Findings) -> AuthorizedKeys:
    if not _is_safe(path, findings):
        return _NO_KEYS
    text = await _text(path, findings)
    if text is None:
        return _NO_KEYS
    keys = parse_authorized_keys(text, source=str(path))
    findings.warnings += keys.errors
    return keys if settings.nist_curves else _without_nist_curves(path, keys, findings)


async def _text(path: Path, findings: Findings) -> str | None:
    try:
        async with aiofiles.open(path, encoding="utf-8", errors="replace") as file:
            return await file.read()
    except OSError as error:
        findings.errors.append(f"{path}: cannot be read: {error.strerror}")
        return None


def _without_nist_curves(path: Path, keys: AuthorizedKeys, findings: Findings) -> AuthorizedKeys:
    left_out = [key for key in keys.keys if algorithms.on_nist_curve(key.key_type)]
    findings.warnings += [
        f"{path}: the key {key.fingerprint} ({key.key_type}) is on a NIST curve and not accepted; "
        "give its owner an ed25519 key, or set nist_curves = true"
        for key in left_out
    ]
    return replace(keys, keys=tuple(key for key in keys.keys if key not in left_out))


def _is_there(path: Path) -> bool:
    """Whether there is something at `path`, or a folder before it that does not let us look."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass  # said when its mode is looked at
    return True


def _is_safe(path: Path, findings: Findings) -> bool:
    """Whether there is a keys file, and nobody else could have put a key into it."""
    if not _is_there(path):
        return False
    errors = public_file_errors(path)
    findings.errors += errors
    return not errors


async def _password_hash(name: str, user: UserSettings, findings: Findings) -> str | None:
    if user.password_hash is not None:
        return user.password_hash.get_secret_value().strip()
    if user.password_hash_file is None:
        return None
    try:
        async with aiofiles.open(user.password_hash_file, encoding="utf-8") as file:
            return (await file.read()).strip()
    except (OSError, UnicodeDecodeError) as error:
        findings.errors.append(
            f"users.{name}.password_hash_file: {user.password_hash_file} cannot be read: {error}"
        )
        return None


def _inspect_shares(
    settings: Settings,
    config_file: Path,
    probes: Mapping[str, ShareProbe],
    running: Settings | None,
    findings: Findings,
) -> None:
    for name, probe in probes.items():
        if probe.problem:
            findings.away.append(f"shares.{name}.path: {probe.problem}")
        elif probe.location.identity is not None:
            findings.roots[name] = probe.location.identity
    mixed = containing_own_files(probes, own_files(settings, config_file))
    # One that was good when it was configured is so by what was mounted since.
    same = running is not None and _places(settings, config_file) == _places(running, config_file)
    (findings.warnings if same else findings.errors).extend(mixed)
    findings.warnings += nested_shares(probes, settings)
    findings.warnings += [
        f'shares.{name}.links: "inside" is deprecated; write "keep", which means the same, or '
        'leave it out for "auto", whose links every sshfs follows'
        for name, share in settings.shares.items()
        if share.links == "inside"
    ]


def _places(settings: Settings, config_file: Path) -> object:
    shares = [share.path for share in settings.shares.values()]
    return shares, own_files(settings, config_file)


def own_files(settings: Settings, config_file: Path) -> list[OwnedPath]:
    """What the gateway itself keeps in files, and no share may have."""
    owned = [
        OwnedPath("keys_dir", settings.keys_dir, is_folder=True),
        OwnedPath("the configuration's folder", config_file.parent, is_folder=True),
    ]
    if settings.history.enabled:
        owned.append(OwnedPath("history.file", settings.history.file.parent, is_folder=True))
    if settings.access_log.file is not None:
        owned.append(OwnedPath("access_log.file", settings.access_log.file.parent, is_folder=True))
    if settings.status.token_file is not None:
        owned.append(OwnedPath("status.token_file", settings.status.token_file))
    owned += [
        OwnedPath(f"users.{name}.password_hash_file", user.password_hash_file)
        for name, user in settings.users.items()
        if user.password_hash_file is not None
    ]
    return [*owned, OwnedPath("the environment's file", ENV_FILE)] if ENV_FILE.exists() else owned


def _inspect_access_log(options: AccessLogSettings, findings: Findings) -> None:
    file = options.file
    if file is None:
        if not options.stdout:
            findings.warnings.append(
                "access_log: stdout is off and no file is named; no access will be logged"
            )
    elif os.path.exists(file) and not os.path.isfile(file):
        findings.errors.append(
            f"access_log.file: {file} is not a regular file; name one, or none: the log goes to "
            "standard output with access_log.stdout"
        )
    elif (why := _why_unwritable(file)) and options.stdout:
        findings.warnings.append(
            f"access_log.file: {why}; until that is done, the log goes to standard output only"
        )
    elif why:
        findings.errors.append(f"access_log.file: {why}")


def _why_unwritable(file: Path) -> str:
    """Why nothing can be appended to the file, and what to do; "" if it can."""
    if not os.path.isdir(file.parent):
        return f"there is no folder {file.parent}; make it, or name another file"
    place = file if os.path.exists(file) else file.parent
    if os.access(place, os.W_OK):
        return ""
    return (
        f"{place} cannot be written by this user (uid {os.geteuid()}); run as root: "
        f"{_hand_over_command()}"
    )


def _hand_over_command() -> str:
    """What gives the gateway's files to this user. In Docker, `docker-compose up` does it."""
    return f"sftp-gateway init --owner {os.geteuid()}:{os.getegid()}"


async def _inspect_status(settings: Settings, findings: Findings) -> None:
    options = settings.status
    file = token_file(settings)
    if not options.enabled:
        return
    if options.token is not None:
        findings.status_token = options.token.get_secret_value()
    elif options.token_file is not None or _is_there(file):
        findings.status_token = await _token(file, findings)
    if findings.status_token is None and not settings.metrics_are_local:
        findings.warnings.append(
            f"status: the page is shown to nobody, because metrics_host is {settings.metrics_host}"
            f" and there is no token; run `sftp-gateway init`, which makes {file}, or set "
            "status.enabled = false"
        )


async def _token(file: Path, findings: Findings) -> str:
    """The token in the file; one that nobody knows if there is none that can be used.

    The page is not needed to serve files, so this stops no start; but it must not become one that
    asks for nothing either.
    """
    try:
        async with aiofiles.open(file, encoding="utf-8", errors="replace") as opened:
            token = (await opened.read()).strip()
    except FileNotFoundError:
        findings.warnings.append(
            f"status: there is no {file}, so the status page is shown to nobody; "
            f"`openssl rand -hex 24 > {file}` makes a token"
        )
        return _UNKNOWN_TOKEN
    except OSError as error:
        findings.warnings.append(
            f"status: {file}: cannot be read by this user (uid {os.geteuid()}): {error.strerror}; "
            "the status page is shown to nobody until it can be; run as root: "
            f"{_hand_over_command()}"
        )
        return _UNKNOWN_TOKEN
    if len(token) >= SHORTEST_TOKEN:
        return token
    findings.warnings.append(
        f"status: {file}: the token has fewer than {SHORTEST_TOKEN} characters, so the status page "
        "is shown to nobody; `openssl rand -hex 24` makes one, and so does `sftp-gateway init` if "
        "the file is deleted"
    )
    return _UNKNOWN_TOKEN


def unwritable_history(settings: Settings) -> list[Path]:
    """What keeps the history from being written, if anything does: its file, or a folder above.

    SQLite makes files beside it, so that its folder has to be writable, too.
    """
    file = settings.history.file
    if not settings.history.enabled:
        return []
    nearest = next(path for path in file.absolute().parents if os.path.exists(path))
    return [
        *([file] if os.path.exists(file) and not _is_writable(file) else []),
        *([nearest] if not (nearest.is_dir() and _is_writable(nearest)) else []),
    ]


def _is_writable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


def _inspect_history(settings: Settings, findings: Findings) -> None:
    findings.warnings += [
        f"history.file: {path} cannot be written by this user (uid {os.geteuid()}), so the "
        "history is lost when the gateway stops; name a file in a folder that it may write "
        "to, or set history.enabled = false"
        for path in unwritable_history(settings)[:1]
    ]


def _inspect_sandbox(
    settings: Settings, probes: Mapping[str, ShareProbe], findings: Findings
) -> None:
    limitations = policy.limitations(settings.landlock)
    if settings.landlock == "require" and not policy.version(settings.landlock):
        findings.errors += limitations
    else:
        findings.warnings += limitations
