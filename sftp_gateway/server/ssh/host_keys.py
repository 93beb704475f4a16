"""Reads host keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncssh

from sftp_gateway.auth.keys.generate import HostKey
from sftp_gateway.errors import ConfigurationError

#: The signature algorithms of an RSA key (RFC 8332), without SHA-1.
_RSA_ALGORITHMS: Final = (b"rsa-sha2-512", b"rsa-sha2-256")


def public_line_of(private: bytes) -> str:
    """The public key line, with its comment, of a private key file's content.

    Raises ValueError, with the rest of a sentence about the file, if it cannot be a host key.
    """
    try:
        key = asyncssh.import_private_key(private)
    except asyncssh.KeyImportError as error:
        if str(error).startswith("Passphrase"):
            raise ValueError("is encrypted with a passphrase") from None
        raise ValueError(f"is not a readable private key ({error})") from None
    return key.export_public_key("openssh").decode("utf-8", "replace").strip()


def load(keys: Sequence[HostKey]) -> list[asyncssh.SSHKeyPair]:
    """Load the key pairs.

    The first of each type is used in key exchanges; the others are only announced (OpenSSH PROTOCOL
    §2.5, `hostkeys-00@openssh.com`).

    Raises ConfigurationError for a key that cannot be read, and for a successor or predecessor of
    another type than the key that it is named after.
    """
    pairs = []
    types: dict[str, str] = {}
    for key in keys:
        try:
            (pair,) = asyncssh.load_keypairs(asyncssh.import_private_key(key.private))
        except (ValueError, asyncssh.KeyImportError) as error:
            raise ConfigurationError(
                [f"keys_dir: a host key cannot be read: {key.path}: {error}"]
            ) from error
        kind = pair.get_algorithm()
        if types.setdefault(key.path.stem, kind) != kind:
            raise ConfigurationError(
                [f"keys_dir: {key.path} is of type {kind}, but the key it goes with is not"]
            )
        if kind == "ssh-rsa":
            # asyncssh would prove the key to UpdateHostKeys with SHA-1, which clients refuse.
            pair.set_sig_algorithm(_RSA_ALGORITHMS[0])
            pair.host_key_algorithms = _RSA_ALGORITHMS
        pairs.append(pair)
    return pairs
