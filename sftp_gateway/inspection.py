"""Looks at everything the configuration points to, and says every mistake at once."""

from __future__ import annotations

import os
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
    parse_authorized_keys,
    parse_revocations,
    private_key_mistakes,
    public_file_mistakes,
)
from sftp_gateway.console import ENV_FILE
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.first_start import (
    AUTHORIZED_KEYS,
    HOST_KEY,
    NIST_HOST_KEY,
    REVOKED_KEYS,
    USER_CA_KEYS,
    host_key_files,
    token_file,
)
from sftp_gateway.process import confinement
from sftp_gateway.server import algorithms, host_keys
from sftp_gateway.settings import (
    SHORTEST_TOKEN,
    AccessLogSettings,
    Settings,
    UserSettings,
    default_users,
)
from sftp_gateway.share_folders import Look, Own, mixed_up, nested

_NO_KEYS: Final = AuthorizedKeys((), ())


@dataclass(slots=True)
class Findings:
    """What was found. With `mistakes` the gateway does not start; `warnings` are only said.

    `away` says which shares cannot be read: the others are served all the same.
    """

    mistakes: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    credentials: list[Credentials] = field(default_factory=list)
    trust: Trust = field(default_factory=Trust)
    host_keys: list[HostKey] = field(default_factory=list)
    roots: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Device and inode of each share's folder."""
    status_token: str | None = None


async def inspect(
    settings: Settings,
    *,
    config_file: Path,
    looks: Mapping[str, Look],
    running: Settings | None = None,
) -> Findings:
    """Look at keys, passwords and files that `settings` name; `looks` says how the shares look.

    While a gateway is `running`, a share that has come to contain its files is a warning: who may
    log in does not depend on it.
    """
    findings = Findings()
    await _inspect_host_keys(settings, findings)
    await _inspect_trust(settings, findings)
    for name, user in settings.users.items():
        await _inspect_user(settings, name, user, findings)
    _inspect_default_users(settings, findings)
    _inspect_shares(settings, config_file, looks, running, findings)
    _inspect_access_log(settings.access_log, findings)
    _inspect_confinement(settings, looks, findings)
    await _inspect_status(settings, findings)
    _inspect_history(settings, findings)
    try:
        algorithms.ciphers(settings.ciphers, has_aes=True)
    except ConfigurationError as error:
        findings.mistakes += error.mistakes
    return findings


def watched_files(settings: Settings, config_file: Path) -> list[Path]:
    """Files whose change is a new configuration or new credentials, whether they are there or
    not."""
    keys = settings.keys_dir
    secrets = [user.password_hash_file for user in settings.users.values()]
    return [
        config_file,
        *host_key_files(keys),
        keys / USER_CA_KEYS,
        keys / REVOKED_KEYS,
        *(keys / AUTHORIZED_KEYS / name for name in settings.users),
        *filter(None, secrets),
        token_file(settings),
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
        findings.mistakes.append(
            f"keys_dir: there is no host key {settings.keys_dir / HOST_KEY}; run "
            "`sftp-gateway init`, which makes one, or put the old server's there"
        )
    mistakes = [mistake for path in found for mistake in private_key_mistakes(path)]
    findings.mistakes += mistakes
    if mistakes:
        return
    try:
        for path in found:
            async with aiofiles.open(path, "rb") as file:
                findings.host_keys.append(HostKey(path=path, private=await file.read()))
        host_keys.load(findings.host_keys)
    except OSError as error:
        findings.mistakes.append(f"{error.filename}: cannot be read: {error.strerror}")
    except ConfigurationError as error:
        findings.mistakes += error.mistakes


async def _inspect_trust(settings: Settings, findings: Findings) -> None:
    path = settings.keys_dir / USER_CA_KEYS
    authorities = await _authorized_keys(path, settings, findings)
    if any(key.authority or key.principals for key in authorities.keys):
        # It would let the authority say who anybody is, where a user's own line says for whom.
        findings.mistakes.append(
            f"{path}: cert-authority and principals= belong into a user's authorized_keys; each "
            "key here is an authority already, for certificates that name the user as a principal"
        )
    path = settings.keys_dir / REVOKED_KEYS
    revoked = Trust().revoked
    if _is_safe(path, findings):
        text = await _text(path, findings)
        if text is not None:
            revoked, mistakes = parse_revocations(text, source=str(path))
            findings.mistakes += mistakes
    findings.trust = Trust(authorities=authorities, revoked=revoked)


async def _inspect_user(
    settings: Settings, name: str, user: UserSettings, findings: Findings
) -> None:
    path = settings.keys_dir / AUTHORIZED_KEYS / name
    keys = await _authorized_keys(path, settings, findings)
    password_hash = await _password_hash(name, user, findings)
    if password_hash is not None:
        try:
            check_hash(password_hash)
        except ValueError as error:
            findings.mistakes.append(f"users.{name}.password_hash: {error}")
            password_hash = None
    authorities = findings.trust.authorities.keys
    if not keys.keys and not authorities and password_hash is None:
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
    findings.warnings += keys.mistakes
    return keys if settings.nist_curves else _without_nist_curves(path, keys, findings)


async def _text(path: Path, findings: Findings) -> str | None:
    try:
        async with aiofiles.open(path, encoding="utf-8", errors="replace") as file:
            return await file.read()
    except OSError as error:
        findings.mistakes.append(f"{path}: cannot be read: {error.strerror}")
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
    mistakes = public_file_mistakes(path)
    findings.mistakes += mistakes
    return not mistakes


async def _password_hash(name: str, user: UserSettings, findings: Findings) -> str | None:
    if user.password_hash is not None:
        return user.password_hash.get_secret_value().strip()
    if user.password_hash_file is None:
        return None
    try:
        async with aiofiles.open(user.password_hash_file, encoding="utf-8") as file:
            return (await file.read()).strip()
    except (OSError, UnicodeDecodeError) as error:
        findings.mistakes.append(
            f"users.{name}.password_hash_file: {user.password_hash_file} cannot be read: {error}"
        )
        return None


def _inspect_shares(
    settings: Settings,
    config_file: Path,
    looks: Mapping[str, Look],
    running: Settings | None,
    findings: Findings,
) -> None:
    for name, look in looks.items():
        if look.problem:
            findings.away.append(f"shares.{name}.path: {look.problem}")
        elif look.place.identity is not None:
            findings.roots[name] = look.place.identity
    mixed = mixed_up(looks, own_files(settings, config_file))
    # One that was good when it was configured is so by what was mounted since.
    same = running is not None and _places(settings, config_file) == _places(running, config_file)
    (findings.warnings if same else findings.mistakes).extend(mixed)
    findings.warnings += nested(looks, settings)
    findings.warnings += [
        f'shares.{name}.links: "inside" is deprecated; write "keep", which means the same, or '
        'leave it out for "auto", whose links every sshfs follows'
        for name, share in settings.shares.items()
        if share.links == "inside"
    ]


def _places(settings: Settings, config_file: Path) -> object:
    shares = [share.path for share in settings.shares.values()]
    return shares, own_files(settings, config_file)


def own_files(settings: Settings, config_file: Path) -> list[Own]:
    """What the gateway itself keeps in files, and no share may have."""
    owned = [
        Own("keys_dir", settings.keys_dir, of_folder=True),
        Own("the configuration's folder", config_file.parent, of_folder=True),
    ]
    if settings.history.enabled:
        owned.append(Own("history.file", settings.history.file.parent, of_folder=True))
    if settings.access_log.file is not None:
        owned.append(Own("access_log.file", settings.access_log.file.parent, of_folder=True))
    if settings.status.token_file is not None:
        owned.append(Own("status.token_file", settings.status.token_file))
    owned += [
        Own(f"users.{name}.password_hash_file", user.password_hash_file)
        for name, user in settings.users.items()
        if user.password_hash_file is not None
    ]
    return [*owned, Own("the environment's file", ENV_FILE)] if ENV_FILE.exists() else owned


def _inspect_access_log(options: AccessLogSettings, findings: Findings) -> None:
    file = options.file
    if file is not None and not os.path.isdir(file.parent):
        findings.mistakes.append(
            f"access_log.file: there is no folder {file.parent}; make it, or name another file"
        )
    elif file is not None and os.path.exists(file) and not os.path.isfile(file):
        findings.mistakes.append(
            f"access_log.file: {file} is not a regular file; name one, or none: the log goes to "
            "standard output with access_log.stdout"
        )
    if file is None and not options.stdout:
        findings.warnings.append(
            "access_log: stdout is off and no file is named; no access will be logged"
        )


async def _inspect_status(settings: Settings, findings: Findings) -> None:
    options = settings.status
    file = token_file(settings)
    if not options.enabled:
        return
    if options.token is not None:
        findings.status_token = options.token.get_secret_value()
    elif options.token_file is not None or _is_there(file):
        text = await _text(file, findings)
        if text is not None and len(text.strip()) < SHORTEST_TOKEN:
            findings.mistakes.append(
                f"{file}: the status page's token has {SHORTEST_TOKEN} characters at least; "
                f"`openssl rand -hex 24` makes one, and so does `sftp-gateway init` if the file "
                "is deleted"
            )
        elif text is not None:
            findings.status_token = text.strip()
    if findings.status_token is None and not settings.metrics_are_local:
        findings.warnings.append(
            f"status: the page is shown to nobody, because metrics_host is {settings.metrics_host}"
            f" and there is no token; run `sftp-gateway init`, which makes {file}, or set "
            "status.enabled = false"
        )


def _inspect_history(settings: Settings, findings: Findings) -> None:
    if not settings.history.enabled:
        return
    file = settings.history.file
    nearest = (file, *file.absolute().parents)
    existing = next(path for path in nearest if os.path.exists(path))
    usable = existing == file or existing.is_dir()
    if not (usable and os.access(existing, os.R_OK | os.W_OK)):
        findings.warnings.append(
            f"history.file: {existing} cannot be written by this user (uid {os.geteuid()}), so the "
            "history is lost when the gateway stops; name a file in a folder that it may write "
            "to, or set history.enabled = false"
        )


def _inspect_confinement(settings: Settings, looks: Mapping[str, Look], findings: Findings) -> None:
    shortcomings = confinement.shortcomings(settings.landlock)
    if settings.landlock == "require" and not confinement.version(settings.landlock):
        findings.mistakes += shortcomings
    else:
        findings.warnings += shortcomings
