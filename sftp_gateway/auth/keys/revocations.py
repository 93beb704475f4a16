"""Parses lists of revoked keys and certificates.

The format is the input of `ssh-keygen -k` (ssh-keygen(1), KEY REVOCATION LISTS), and public keys
and fingerprints, one per line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sftp_gateway.auth.keys.authorized_keys import parse_authorized_keys
from sftp_gateway.auth.keys.blobs import fingerprint
from sftp_gateway.auth.keys.certificates import Certificate

#: The magic number of OpenSSH's binary KRLs (PROTOCOL.krl).
_BINARY: Final = "SSHKRL\n\0"

_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_SERIALS: Final = re.compile(
    r"(0x[0-9a-fA-F]{1,16}|[0-9]{1,20})(?:-(0x[0-9a-fA-F]{1,16}|[0-9]{1,20}))?"
)
_NAMED: Final = re.compile(r"(serial|id|key|sha1|sha256|hash):[ \t]*(.*)", re.IGNORECASE)

_MAX_SERIAL: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Revocations:
    """Revoked keys and certificates; `serials` are inclusive ranges, for all authorities."""

    fingerprints: frozenset[str] = frozenset()
    serials: tuple[tuple[int, int], ...] = ()
    key_ids: frozenset[str] = frozenset()

    def revokes_key(self, blob: bytes) -> bool:
        """Whether a plain key, or an authority's key, is revoked."""
        return bool(self.fingerprints) and fingerprint(blob) in self.fingerprints

    def revokes_certificate(self, certificate: Certificate) -> bool:
        """Whether a certificate is revoked by its key, authority, serial or key id."""
        return (
            self.revokes_key(certificate.key)
            or self.revokes_key(certificate.authority)
            or certificate.key_id in self.key_ids
            or any(first <= certificate.serial <= last for first, last in self.serials)
        )


def parse_revocations(text: str, *, source: str) -> tuple[Revocations, tuple[str, ...]]:
    """Parse a list; returns the revocations and an error message for each invalid line.

    The caller must reject a list with errors: an invalid line may be the one that revokes a stolen
    key.
    """
    if text.startswith(_BINARY):
        return Revocations(), (
            f"{source} is an OpenSSH binary KRL, which is not supported; use the text file "
            "that `ssh-keygen -k` was given",
        )
    lines = _Lines()
    errors = []
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            lines.add(line)
        except ValueError as error:
            errors.append(f"{source}, line {number}: {error}")
    found = Revocations(frozenset(lines.prints), tuple(lines.serials), frozenset(lines.key_ids))
    return found, tuple(errors)


class _Lines:
    """Collects the entries of a list."""

    def __init__(self) -> None:
        self.prints: set[str] = set()
        self.serials: list[tuple[int, int]] = []
        self.key_ids: set[str] = set()

    def add(self, line: str) -> None:
        named = _NAMED.fullmatch(line)
        kind, value = (named[1].lower(), named[2].strip()) if named else ("", line)
        if kind == "serial":
            self.serials.append(_serials(value))
        elif kind == "id":
            if not value:
                raise ValueError("the key id is missing; write id: KEY-ID")
            self.key_ids.add(value)
        elif kind == "hash" or value.startswith("SHA256:") or line.startswith("SHA256:"):
            self.prints.add(_fingerprint(line if line.startswith("SHA256:") else value))
        else:
            self.prints.add(_key(value))


def _serials(text: str) -> tuple[int, int]:
    match = _SERIALS.fullmatch(text)
    if match is None:
        raise ValueError("not a valid serial; write serial: NUMBER or serial: NUMBER-NUMBER")
    first = _number(match[1])
    last = first if match[2] is None else _number(match[2])
    if not 0 < first <= last <= _MAX_SERIAL:
        # 0 is the serial of all certificates made without `ssh-keygen -z`.
        raise ValueError("serials must be ascending, from 1 to 2^64 - 1")
    return first, last


def _number(text: str) -> int:
    return int(text, 16 if text.lower().startswith("0x") else 10)


def _fingerprint(text: str) -> str:
    """The fingerprint at the start of `text`; a comment may follow."""
    word = text.split(maxsplit=1)[0] if text else ""
    if not _FINGERPRINT.fullmatch(word):
        raise ValueError("not a fingerprint as `ssh-keygen -l` prints it, SHA256:...")
    return word


def _key(text: str) -> str:
    parsed = parse_authorized_keys(text, source="")
    if not parsed.keys:
        raise ValueError("not a public key, SHA256:..., serial: NUMBER or id: KEY-ID")
    return parsed.keys[0].fingerprint
