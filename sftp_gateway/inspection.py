"""Looks at everything the configuration points to, and says every mistake at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import aiofiles

from sftp_gateway.auth import (
    AuthorizedKeys,
    Credentials,
    check_hash,
    parse_authorized_keys,
    private_key_mistakes,
    public_file_mistakes,
)
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.first_start import AUTHORIZED_KEYS, HOST_KEY, NIST_HOST_KEY, OTHER_HOST_KEYS
from sftp_gateway.process import confinement
from sftp_gateway.server import algorithms
from sftp_gateway.settings import AccessLogSettings, Settings, UserSettings

_NO_KEYS: Final = AuthorizedKeys((), ())


@dataclass(slots=True)
class Findings:
    """What was found. With `mistakes` the gateway does not start; `warnings` are only said."""

    mistakes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    credentials: list[Credentials] = field(default_factory=list)
    host_keys: list[Path] = field(default_factory=list)


async def inspect(settings: Settings) -> Findings:
    """Look at keys, passwords, shares and files that `settings` name."""
    findings = Findings()
    _inspect_host_keys(settings, findings)
    for name, user in settings.users.items():
        await _inspect_user(settings, name, user, findings)
    for name, share in settings.shares.items():
        _inspect_share(name, share.path, findings)
    _inspect_access_log(settings.access_log, findings)
    _inspect_confinement(settings, findings)
    try:
        algorithms.ciphers(settings.ciphers, has_aes=True)
    except ConfigurationError as error:
        findings.mistakes += error.mistakes
    return findings


def _inspect_host_keys(settings: Settings, findings: Findings) -> None:
    own = settings.keys_dir / HOST_KEY
    others = [settings.keys_dir / name for name in OTHER_HOST_KEYS]
    found = [path for path in (own, *others) if _is_there(path)]
    if not settings.nist_curves:
        for path in [path for path in found if path.name == NIST_HOST_KEY]:
            found.remove(path)
            findings.warnings.append(
                f"{path}: is on a NIST curve and not used; delete it, or set nist_curves = true"
            )
    if not found:
        findings.mistakes.append(
            f"keys_dir: there is no host key {own}; run `sftp-gateway init`, which makes one, "
            "or put the old server's there"
        )
    for path in found:
        findings.mistakes += private_key_mistakes(path)
    findings.host_keys = found


async def _inspect_user(
    settings: Settings, name: str, user: UserSettings, findings: Findings
) -> None:
    path = settings.keys_dir / AUTHORIZED_KEYS / name
    keys = await _authorized_keys(path, findings)
    if not settings.nist_curves:
        keys = _without_nist_curves(path, keys, findings)
    password_hash = await _password_hash(name, user, findings)
    if password_hash is not None:
        try:
            check_hash(password_hash)
        except ValueError as error:
            findings.mistakes.append(f"users.{name}.password_hash: {error}")
            password_hash = None
    if not keys.keys and password_hash is None:
        findings.warnings.append(
            f"users.{name}: nothing lets this user log in; put public keys into "
            f"{settings.keys_dir / AUTHORIZED_KEYS / name}, or set a password_hash"
        )
    findings.credentials.append(Credentials(user=name, keys=keys, password_hash=password_hash))


async def _authorized_keys(path: Path, findings: Findings) -> AuthorizedKeys:
    if not _is_safe(path, findings):
        return _NO_KEYS
    try:
        async with aiofiles.open(path, encoding="utf-8", errors="replace") as file:
            keys = parse_authorized_keys(await file.read(), source=str(path))
    except OSError as error:
        findings.mistakes.append(f"{path}: cannot be read: {error.strerror}")
        return _NO_KEYS
    findings.warnings += keys.mistakes
    return keys


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


def _inspect_share(name: str, path: Path, findings: Findings) -> None:
    if not os.path.isdir(path):  # Path.is_dir would raise PermissionError
        findings.mistakes.append(
            f"shares.{name}.path: there is no folder {path}; make it, or name another"
        )
    elif not os.access(path, os.R_OK | os.X_OK):
        findings.mistakes.append(
            f"shares.{name}.path: the folder {path} cannot be read by this user "
            f"(uid {os.geteuid()}); give it r-x, or run the gateway as another user"
        )


def _inspect_access_log(options: AccessLogSettings, findings: Findings) -> None:
    file = options.file
    if file is not None and not os.path.isdir(file.parent):
        findings.mistakes.append(
            f"access_log.file: there is no folder {file.parent}; make it, or name another file"
        )
    if file is None and not options.stdout:
        findings.warnings.append(
            "access_log: stdout is off and no file is named; no access will be logged"
        )


def _inspect_confinement(settings: Settings, findings: Findings) -> None:
    shortcomings = confinement.shortcomings(settings.landlock)
    if settings.landlock == "require" and not confinement.version(settings.landlock):
        findings.mistakes += shortcomings
    else:
        findings.warnings += shortcomings
    file = settings.access_log.file
    if file is None or settings.landlock == "off":
        return
    folder = file.parent.resolve()
    named = {f"shares.{name}.path": share.path for name, share in settings.shares.items()}
    within = [
        option
        for option, path in {"keys_dir": settings.keys_dir, **named}.items()
        if path.resolve().is_relative_to(folder)
    ]
    if within:
        findings.warnings.append(
            f"access_log.file: {', '.join(within)} is below {folder}, in which Landlock has to let "
            "workers write for the log; give it a folder of its own"
        )
