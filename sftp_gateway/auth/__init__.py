"""Who may log in: plain decisions about keys, passwords and addresses."""

from sftp_gateway.auth.addresses import AddressPatterns
from sftp_gateway.auth.authenticator import Authenticator, Credentials, Decision, Reason
from sftp_gateway.auth.authorized_keys import AuthorizedKey, AuthorizedKeys, parse_authorized_keys
from sftp_gateway.auth.blobs import fingerprint
from sftp_gateway.auth.keys import (
    KeyPair,
    generate_ed25519,
    private_key_mistakes,
    public_file_mistakes,
)
from sftp_gateway.auth.passwords import HashCost, PasswordVerifier, check_hash, hash_password
from sftp_gateway.auth.sources import Networks

__all__ = [
    "AddressPatterns",
    "Authenticator",
    "AuthorizedKey",
    "AuthorizedKeys",
    "Credentials",
    "Decision",
    "HashCost",
    "KeyPair",
    "Networks",
    "PasswordVerifier",
    "Reason",
    "check_hash",
    "fingerprint",
    "generate_ed25519",
    "hash_password",
    "parse_authorized_keys",
    "private_key_mistakes",
    "public_file_mistakes",
]
