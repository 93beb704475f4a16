"""Authentication decisions about keys, certificates, passwords and addresses, without I/O."""

from sftp_gateway.auth.addresses import AddressPatterns
from sftp_gateway.auth.authenticator import (
    Authenticator,
    Credentials,
    Decision,
    Login,
    Reason,
    Trust,
)
from sftp_gateway.auth.keys.authorized_keys import (
    AuthorizedKey,
    AuthorizedKeys,
    parse_authorized_keys,
)
from sftp_gateway.auth.keys.blobs import fingerprint
from sftp_gateway.auth.keys.certificates import Certificate, is_certificate, read_certificate
from sftp_gateway.auth.keys.generate import (
    HostKey,
    KeyPair,
    generate_ed25519,
    private_key_errors,
    public_file_errors,
    writable_by_others,
)
from sftp_gateway.auth.keys.revocations import Revocations, parse_revocations
from sftp_gateway.auth.passwords import (
    MIN_PASSWORD_LENGTH,
    HashCost,
    PasswordVerifier,
    check_hash,
    hash_password,
    is_cheap,
)
from sftp_gateway.auth.sources import Networks

__all__ = [
    "MIN_PASSWORD_LENGTH",
    "AddressPatterns",
    "Authenticator",
    "AuthorizedKey",
    "AuthorizedKeys",
    "Certificate",
    "Credentials",
    "Decision",
    "HashCost",
    "HostKey",
    "KeyPair",
    "Login",
    "Networks",
    "PasswordVerifier",
    "Reason",
    "Revocations",
    "Trust",
    "check_hash",
    "fingerprint",
    "generate_ed25519",
    "hash_password",
    "is_certificate",
    "is_cheap",
    "parse_authorized_keys",
    "parse_revocations",
    "private_key_errors",
    "public_file_errors",
    "read_certificate",
    "writable_by_others",
]
