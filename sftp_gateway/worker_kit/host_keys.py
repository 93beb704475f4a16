"""The gateway's public host keys, from the files that are beside the private ones."""

from __future__ import annotations

from pathlib import Path

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.first_start import HOST_KEY, NIST_HOST_KEY, host_key_files, public_half
from sftp_gateway.server.host_keys import public_line_of
from sftp_gateway.settings import Settings


def public_host_keys(settings: Settings) -> list[str]:
    """`TYPE BASE64` of every key that is used or announced.

    Raises ConfigurationError where there is none, or one cannot be read.
    """
    found = [
        _public(path)
        for path in host_key_files(settings.keys_dir)
        if path.exists() and (settings.nist_curves or path.stem != NIST_HOST_KEY)
    ]
    if not found:
        raise ConfigurationError(
            [
                f"there is no host key {settings.keys_dir / HOST_KEY} to pin on workers; run this "
                "where the gateway runs, after its first start"
            ]
        )
    return found


def _public(private: Path) -> str:
    """Of a key that another server had there may be no public half, or another key's."""
    public = public_half(private)
    try:
        if public.exists():
            line = public.read_text(encoding="utf-8")
        else:
            line = public_line_of(private.read_bytes())
        kind, blob, *_ = line.split()
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigurationError([f"{private}: its public key cannot be read"]) from error
    return f"{kind} {blob}"
