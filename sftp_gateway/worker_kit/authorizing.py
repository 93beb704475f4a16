"""Authorizes the keys that workers have generated."""

from __future__ import annotations

from pathlib import Path

from sftp_gateway.auth import AuthorizedKey
from sftp_gateway.auth.keys import keyring
from sftp_gateway.console import report
from sftp_gateway.system import atomic


def authorize_key(authorized_keys: Path, line: str) -> None:
    """Add a worker's public key to a user's file, unless it is there.

    Warns about other keys in the file with the same comment. Raises ValueError for a line that is
    not a public key, and OSError.
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
            f"warning: {other.fingerprint} has the same name, {key.comment}; if it is this "
            f"worker's former key, run: sftp-gateway keys remove {authorized_keys.name} "
            f"{other.fingerprint}"
        )
