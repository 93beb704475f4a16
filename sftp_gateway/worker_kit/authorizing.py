"""Lets the keys in that workers made for themselves."""

from __future__ import annotations

from pathlib import Path

from sftp_gateway.auth import AuthorizedKey
from sftp_gateway.auth.keys import keyring
from sftp_gateway.console import report
from sftp_gateway.system import atomic


def authorize_key(authorized_keys: Path, line: str) -> None:
    """Add a worker's public key to a user's file, unless it is there.

    Where the file has other keys of the same name, that is said. Raises ValueError for a line that
    is no key, and OSError.
    """

    def edit(text: str) -> tuple[str, tuple[AuthorizedKey, list[AuthorizedKey]]]:
        before = [key for _, key in keyring.key_lines(text)]
        _, key = keyring.add_line("", line)
        if all(other.blob != key.blob for other in before):
            text, _ = keyring.add_line(text, line)
        return text, (key, [o for o in before if o.comment == key.comment and o.blob != key.blob])

    key, others = atomic.change(authorized_keys, edit)
    for other in others:
        report(
            f"warning: {other.fingerprint} is named {key.comment} too; if that was this worker's "
            f"former key: sftp-gateway keys remove {authorized_keys.name} {other.fingerprint}"
        )
