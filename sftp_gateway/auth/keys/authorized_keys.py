"""Parses authorized_keys files (sshd(8), AUTHORIZED_KEYS FILE FORMAT). Opens no files."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime

from sftp_gateway.auth.addresses import AddressPatterns
from sftp_gateway.auth.keys.blobs import KEY_TYPES, MIN_RSA_BITS, fingerprint, parse_blob
from sftp_gateway.auth.keys.options import KeyOptions, parse_options, split_field

__all__ = ["AuthorizedKey", "AuthorizedKeys", "fingerprint", "parse_authorized_keys"]

# Maximum length of a line in characters; an RSA key of 16,384 bits takes 2,800.
MAX_LINE = 16 * 1024
# Maximum size of a key in bytes; the same RSA key has 2,071.
MAX_BLOB = 4 * 1024

_AROUND = " \t\r"
_BLANK = re.compile(r"[ \t]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# A key type that may be quoted in a message. Base64 of a key has upper-case letters too.
_TYPE_TO_SHOW = re.compile(r"(?:ssh|ecdsa|sk|rsa|webauthn)-[a-z0-9.@-]{1,60}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizedKey:
    """One line: a public key and the conditions under which it is accepted.

    `blob` is the key as SSH sends it (RFC 4253 §6.6), `fingerprint` is what `ssh-keygen -l`
    prints, `sources` the addresses of `from=`, `expires` the aware UTC time of `expiry-time=`.
    With `authority` (`cert-authority`), certificates signed by the key log in, but not the key
    itself. They must name one of `principals`, or the user's own name if that is None.
    """

    key_type: str
    blob: bytes
    fingerprint: str
    comment: str
    sources: AddressPatterns | None
    expires: datetime | None
    authority: bool = False
    principals: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class AuthorizedKeys:
    """A parsed file: its valid keys in order, and an error message for each invalid line."""

    keys: tuple[AuthorizedKey, ...]
    errors: tuple[str, ...]


def parse_authorized_keys(text: str, *, source: str) -> AuthorizedKeys:
    """Parse the text of an authorized_keys file; `source` names it in error messages.

    Never raises: invalid lines are reported and skipped.
    """
    keys: list[AuthorizedKey] = []
    errors: list[str] = []
    # Not splitlines(): as in sshd only LF ends a line, so that a comment cannot end early.
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = raw.strip(_AROUND)
        if not line or line.startswith("#"):
            continue
        try:
            keys.append(_parse_line(line))
        except ValueError as error:
            errors.append(f"{source}, line {number}: {error}")
    return AuthorizedKeys(tuple(keys), tuple(errors))


def _parse_line(line: str) -> AuthorizedKey:
    if len(line) > MAX_LINE:
        raise ValueError(f"the line is longer than {MAX_LINE} characters")
    if _CONTROL.search(line):
        raise ValueError("the line has a control character; write one key per line, as plain text")
    options = KeyOptions()
    key_type, rest = split_field(line)
    if key_type not in KEY_TYPES:
        field = key_type
        key_type, rest = split_field(rest)
        if key_type not in KEY_TYPES:
            raise ValueError(_unsupported(field, key_type))
        options = parse_options(field)
    encoded, *comment = _BLANK.split(rest, maxsplit=1)
    blob = _decode(encoded)
    _check_key(key_type, blob)
    return AuthorizedKey(
        key_type=key_type,
        blob=blob,
        fingerprint=fingerprint(blob),
        comment="".join(comment),
        sources=options.sources,
        expires=options.expires,
        authority=options.authority,
        principals=options.principals,
    )


def _unsupported(first: str, second: str) -> str:
    supported = ", ".join(KEY_TYPES)
    for word in (first, second):
        if _TYPE_TO_SHOW.fullmatch(word):
            return f"keys of type {word} are not accepted; use one of {supported}"
    return (
        f"the line has no key; write [OPTIONS] TYPE BASE64 [COMMENT], with TYPE one of {supported}"
    )


def _decode(encoded: str) -> bytes:
    """Decode canonical base64."""
    if len(encoded) > MAX_BLOB * 4 // 3:
        raise ValueError("the key is too large; copy the .pub line again")
    try:
        blob = binascii.a2b_base64(encoded.encode("ascii"), strict_mode=True)
    except ValueError:
        blob = b""
    if not blob or base64.b64encode(blob).decode("ascii") != encoded:
        raise ValueError("the key is not complete base64; copy the .pub line again, as one line")
    return blob


def _check_key(key_type: str, blob: bytes) -> None:
    facts = parse_blob(blob)
    if facts.key_type != key_type:
        raise ValueError(
            f"the line says {key_type} but the key is of type {facts.key_type}; "
            "copy the .pub line again"
        )
    if facts.too_weak:
        raise ValueError(
            f"the RSA key has {facts.rsa_bits} bits and is too weak; use one with at least "
            f"{MIN_RSA_BITS} bits, or better an ssh-ed25519 key"
        )
