"""The authorized_keys file: its lines become keys, or sentences about what is wrong with them.

Source: sshd(8) AUTHORIZED_KEYS FILE FORMAT. Text in, values out; no file is opened here.
"""

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

# Characters in a line: an RSA key of 16,384 bits takes 2,800 of them, the options get the rest.
MAX_LINE = 16 * 1024
# Bytes in a key: that same RSA key has 2,071.
MAX_BLOB = 4 * 1024

_AROUND = " \t\r"
_BLANK = re.compile(r"[ \t]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# A type's name, never a piece of a key: those are of mixed case.
_TYPE_TO_SHOW = re.compile(r"(?:ssh|ecdsa|sk|rsa|webauthn)-[a-z0-9.@-]{1,60}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizedKey:
    """One line: a public key and the conditions under which it is accepted.

    `blob` is the key as SSH sends it (RFC 4253 §6.6), `fingerprint` is what `ssh-keygen -l`
    prints, `sources` the addresses of `from=`, `expires` the aware UTC time of `expiry-time=`.
    With `authority` (`cert-authority`) the key does not log in itself: certificates that it has
    signed do, for one of `principals`, or where that is None for the user's own name.
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
    """A parsed file: its good keys in order, and one sentence for each line that is not one."""

    keys: tuple[AuthorizedKey, ...]
    errors: tuple[str, ...]


def parse_authorized_keys(text: str, *, source: str) -> AuthorizedKeys:
    """Read the text of an authorized_keys file; `source` names it in the mistakes.

    Never raises: a bad line is a mistake and its key is not accepted, the others are.
    """
    keys: list[AuthorizedKey] = []
    errors: list[str] = []
    # Not splitlines(): to sshd only LF ends a line, and a comment must not be able to end early.
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
        raise ValueError(f"the line is too long; at most {MAX_LINE} characters are read")
    if _CONTROL.search(line):
        raise ValueError("the line has a control character; write one key a line, as plain text")
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
    return f"there is no key; write [OPTIONS] TYPE BASE64 [COMMENT] with TYPE one of {supported}"


def _decode(encoded: str) -> bytes:
    """The bytes of the only base64 text that stands for them."""
    if len(encoded) > MAX_BLOB * 4 // 3:
        raise ValueError("the key is larger than any that is accepted; copy the .pub line again")
    try:
        blob = binascii.a2b_base64(encoded.encode("ascii"), strict_mode=True)
    except ValueError:
        blob = b""
    if not blob or base64.b64encode(blob).decode("ascii") != encoded:
        raise ValueError("the key is not whole base64; copy the .pub line again, as one line")
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
            f"the RSA key has {facts.rsa_bits} bits and is too weak; >= {MIN_RSA_BITS} bits are "
            "accepted, and ssh-ed25519 is better"
        )
