"""Generates ed25519 key pairs, and checks the permissions of key files."""

from __future__ import annotations

import base64
import os
import re
import shlex
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from sftp_gateway.auth.keys.blobs import Reader

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """`private_pem` in OpenSSH's format; `public_line` as in a .pub file, without the line feed."""

    private_pem: bytes = field(repr=False)
    public_line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """A host key file and its contents."""

    path: Path
    private: bytes = field(repr=False)


def generate_ed25519(comment: str) -> KeyPair:
    """Generate a key pair without a passphrase.

    Raises ValueError for a comment with control characters, which would break the .pub line.
    """
    if _CONTROL.search(comment):
        raise ValueError("a key's comment must be one line of plain text")
    private = ed25519.Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    line = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return KeyPair(private_pem=pem, public_line=f"{line.decode('ascii')} {comment}".strip())


def public_line(blob: bytes) -> str:
    """A public key as in a .pub file, without a comment. The blob must be well formed."""
    key_type = Reader(blob).string().decode("ascii")
    return f"{key_type} {base64.b64encode(blob).decode('ascii')}"


def private_key_errors(path: Path) -> list[str]:
    """Errors in the type and permissions of a private key file, one message each.

    Follows links, because secrets are often mounted as links.
    """
    status = _regular_file(path)
    if isinstance(status, str):
        return [status]
    errors = []
    if status.st_mode & 0o077:
        errors.append(
            f"{path} is accessible to others (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"run: chmod 600 {_quoted(path)}"
        )
    if status.st_uid not in (0, os.geteuid()):
        errors.append(
            f"{path} belongs to user {status.st_uid}, but the gateway runs as user {os.geteuid()}; "
            "if no other gateway uses this folder (in Docker it runs as user 10001), run as "
            f"root: sftp-gateway init --owner {os.geteuid()}:{os.getegid()}"
        )
    elif not os.access(path, os.R_OK, effective_ids=True):
        errors.append(
            f"{path} cannot be read by user {os.geteuid()}, as which the gateway runs; "
            f"run: chown {os.geteuid()} {_quoted(path)} && chmod 600 {_quoted(path)}"
        )
    return errors


def public_file_errors(path: Path) -> list[str]:
    """Errors in the type and permissions of a file of accepted keys, one message each."""
    status = _regular_file(path)
    if isinstance(status, str):
        return [status]
    if status.st_mode & 0o022:
        return [
            f"{path} is writable by others (mode {stat.S_IMODE(status.st_mode):04o}), who "
            f"can add their own keys; run: chmod go-w {_quoted(path)}"
        ]
    return []


def writable_by_others(path: Path) -> int | None:
    """The mode of a file that is writable by its group (020) or others (002), otherwise None."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    return mode if mode & 0o022 else None


def _regular_file(path: Path) -> os.stat_result | str:
    """The status of a regular file, or an error message."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return f"{path} is missing; run `sftp-gateway init` to create it"
    except OSError as error:
        return f"{path} cannot be accessed ({error.strerror}); correct the path or its folder"
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is not a regular file; replace it with the key file itself"
    return status


def _quoted(path: Path) -> str:
    # "--": a name may begin with a dash.
    before = "-- " if str(path).startswith("-") else ""
    return before + shlex.quote(str(path))
