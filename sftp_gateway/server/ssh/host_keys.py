"""Host keys: reads them, in the order in which they are used and announced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncssh

from sftp_gateway.auth.keys.generate import HostKey
from sftp_gateway.errors import ConfigurationError

#: What an RSA key signs with (RFC 8332); SHA-1 is not among it.
_RSA_ALGORITHMS: Final = (b"rsa-sha2-512", b"rsa-sha2-256")


def public_line_of(private: bytes) -> str:
    """The public line, with its comment, of a private key's file of any format that is taken.

    Raises ValueError with a sentence for one that is no host key's.
    """
    try:
        key = asyncssh.import_private_key(private)
    except asyncssh.KeyImportError as error:
        if str(error).startswith("Passphrase"):
            raise ValueError(
                "is encrypted with a passphrase, which nobody is there to type"
            ) from None
        raise ValueError(f"is no private key that can be read ({error})") from None
    return key.export_public_key("openssh").decode("utf-8", "replace").strip()


def load(keys: Sequence[HostKey]) -> list[asyncssh.SSHKeyPair]:
    """The pairs of private key files' contents.

    Of several of one type the first is what the gateway proves itself with; the others are only
    announced (OpenSSH PROTOCOL §2.5, `hostkeys-00@openssh.com`).

    Raises ConfigurationError for one that cannot be read, and for a successor or predecessor that
    is of another type than the key whose name it has.
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
