"""The gateway's public host keys."""

from __future__ import annotations

import os
from pathlib import Path

from sftp_gateway.config.bootstrap import HOST_KEY, NIST_HOST_KEY, host_key_files, public_half
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.server.ssh.host_keys import public_line_of
from sftp_gateway.settings import Settings


def require_host_keys(settings: Settings) -> list[str]:
    """`TYPE BASE64` of every key that is used or announced.

    Raises ConfigurationError if there is none, or one cannot be read.
    """
    found = find_host_keys(settings)
    if not found:
        raise ConfigurationError(
            [
                f"there is no host key {settings.keys_dir / HOST_KEY} to pin on workers; run this "
                "where the gateway runs, after its first start"
            ]
        )
    return found


def find_host_keys(settings: Settings) -> list[str]:
    """As `require_host_keys`, but empty before the first start."""
    return [
        _public(path)
        for path in host_key_files(settings.keys_dir)
        if os.path.exists(path) and (settings.nist_curves or path.stem != NIST_HOST_KEY)
    ]


def _public(private: Path) -> str:
    """The public key of a private key file; from its .pub file if this user cannot read that.

    The private key is preferred, because the .pub file may be missing or belong to another key.
    """
    try:
        try:
            line = public_line_of(private.read_bytes())
        except PermissionError:
            line = public_half(private).read_text(encoding="utf-8")
        kind, blob, *_ = line.split()
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigurationError([f"{private}: its public key cannot be read"]) from error
    return f"{kind} {blob}"
