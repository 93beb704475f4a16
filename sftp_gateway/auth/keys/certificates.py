"""Parses OpenSSH user certificates (PROTOCOL.certkeys).

Checks every field; the caller verifies the certificate authority's signature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sftp_gateway.auth.addresses import AddressPatterns
from sftp_gateway.auth.keys.blobs import KEY_TYPES, Reader, parse_blob
from sftp_gateway.auth.keys.signatures import NIST_SIGNATURES, SIGNATURES

#: Maximum size of a certificate in bytes. An RSA key and an RSA authority of 16,384 bits each take
#: 6,300, with the signature.
MAX_CERTIFICATE: Final = 16 * 1024

#: PROTOCOL.certkeys: "SSH_CERT_TYPE_USER 1".
_FOR_USERS: Final = 1

_SUFFIX: Final = "-cert-v01@openssh.com"


def _certificate_type(key_type: str) -> str:
    """`ssh-ed25519-cert-v01@openssh.com` for `ssh-ed25519`, and so on."""
    return key_type.removesuffix("@openssh.com") + _SUFFIX


#: The type of key in each type of certificate.
CERTIFICATE_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {_certificate_type(key_type): key_type for key_type in KEY_TYPES}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A well-formed user certificate. `key` and `authority` are blobs of plain keys.

    `valid_after` (inclusive) and `valid_before` (exclusive) are in seconds since 1970. `sources` is
    None if any address may use it. `signature` covers `signed`.
    """

    key: bytes
    key_id: str
    serial: int
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    sources: AddressPatterns | None
    authority: bytes
    signed: bytes
    signature: bytes


def is_certificate(blob: bytes) -> bool:
    """Whether the blob claims to be a certificate of a supported type."""
    try:
        return Reader(blob).string().decode("ascii", "replace") in CERTIFICATE_TYPES
    except ValueError:
        return False


def read_certificate(blob: bytes) -> Certificate:
    """Parse a certificate and check every byte of it.

    Raises ValueError unless it is exactly one user certificate without critical options that the
    gateway cannot enforce.
    """
    if len(blob) > MAX_CERTIFICATE:
        raise ValueError(f"the certificate is longer than {MAX_CERTIFICATE} bytes")
    reader = Reader(blob)
    key_type = CERTIFICATE_TYPES.get(reader.string().decode("ascii", "replace"))
    if key_type is None:
        raise ValueError("not a certificate of a supported type")
    reader.string()  # the nonce
    key = _key(key_type, reader)
    serial, kind = reader.number(8), reader.number(4)
    if kind != _FOR_USERS:
        raise ValueError("the certificate is not a user certificate")
    key_id = _text(reader.string(), "key id")
    principals = tuple(_text(each, "principal") for each in _strings(reader.string()))
    valid_after, valid_before = reader.number(8), reader.number(8)
    sources = _critical_options(reader.string())
    _options(reader.string())  # extensions: "implementations should ignore" what they do not know
    reader.string()  # reserved
    authority = reader.string()
    parse_blob(authority)  # PROTOCOL.certkeys: "it may not be a certificate itself"
    signed = blob[: len(blob) - len(reader.rest)]
    signature = reader.string()
    reader.end()
    _check_signature_algorithm(signature)
    return Certificate(
        key=key,
        key_id=key_id,
        serial=serial,
        principals=principals,
        valid_after=valid_after,
        valid_before=valid_before,
        sources=sources,
        authority=authority,
        signed=signed,
        signature=signature,
    )


def _key(key_type: str, reader: Reader) -> bytes:
    """The blob of the plain key: the certificate has its fields, but not its type."""
    before = reader.rest
    KEY_TYPES[key_type](reader)
    fields = before[: len(before) - len(reader.rest)]
    return len(key_type).to_bytes(4, "big") + key_type.encode("ascii") + fields


def _strings(packed: bytes) -> Iterator[bytes]:
    reader = Reader(packed)
    while reader.rest:
        yield reader.string()


def _options(packed: bytes) -> dict[bytes, bytes]:
    """Names and data. PROTOCOL.certkeys: "Options must be lexically ordered by "name" if they
    appear in the sequence. Each named option may only appear once"."""
    fields = list(_strings(packed))
    if len(fields) % 2:
        raise ValueError("an option of the certificate has no data")
    names = fields[::2]
    if names != sorted(set(names)):
        raise ValueError("the options of the certificate are out of order")
    return dict(zip(names, fields[1::2], strict=True))


def _critical_options(packed: bytes) -> AddressPatterns | None:
    """The addresses of `source-address`.

    "If an implementation does not recognise a critical option, then the certificate should be
    refused". That includes `force-command`, since no commands are run, and `verify-required`.
    """
    options = _options(packed)
    source = options.pop(b"source-address", None)
    if options:
        name = next(iter(options)).decode("ascii", "backslashreplace")
        raise ValueError(f"the critical option {name!r} is not supported")
    if source is None:
        return None
    reader = Reader(source)
    text = _text(reader.string(), "source-address")
    reader.end()
    # Only addresses and networks; unlike in from=, no `!`, `*` and `?`.
    if any(character in text for character in "!*?"):
        raise ValueError("source-address is not a list of addresses and networks")
    return AddressPatterns.parse(text)


def _text(field: bytes, what: str) -> str:
    text = field.decode("utf-8", "strict")  # UnicodeDecodeError is a ValueError
    if "\0" in text:
        raise ValueError(f"the {what} of the certificate has a NUL")
    return text


def _check_signature_algorithm(signature: bytes) -> None:
    """RFC 4253 §6.6: a signature starts with the name of its algorithm."""
    algorithm = Reader(signature).string().decode("ascii", "replace")
    if algorithm not in SIGNATURES + NIST_SIGNATURES:
        raise ValueError("the certificate is signed with an algorithm that is not accepted")
