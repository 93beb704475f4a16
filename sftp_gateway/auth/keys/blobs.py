"""Public key blobs: their type, whether they are well formed, and their fingerprint.

Sources: RFC 4253 §6.6 (ssh-rsa), RFC 5656 §3.1 (ecdsa), RFC 8709 §4 (ed25519),
OpenSSH PROTOCOL.u2f (sk- keys), RFC 4251 §5 (string, mpint).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric import ec

MIN_RSA_BITS = 2048
# The maximum of OpenSSH; each bit makes the verification of a signature slower.
MAX_RSA_BITS = 16384

_ED25519_BYTES = 32
_UNCOMPRESSED = 4


@dataclass(frozen=True, slots=True)
class PublicKeyInfo:
    """The type of a key; `rsa_bits` is the length of an RSA modulus, None for other keys."""

    key_type: str
    rsa_bits: int | None = None

    @property
    def too_weak(self) -> bool:
        """Whether it is an RSA key of fewer than MIN_RSA_BITS bits."""
        return self.rsa_bits is not None and self.rsa_bits < MIN_RSA_BITS


def fingerprint(blob: bytes) -> str:
    """`SHA256:...`, as `ssh-keygen -l` prints it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii")
    return "SHA256:" + digest.rstrip("=")


def parse_blob(blob: bytes) -> PublicKeyInfo:
    """Check every byte of a public key blob.

    Raises ValueError, with a message without key material, unless it is exactly one key of a
    supported type. Weak keys are well formed; see `too_weak`.
    """
    reader = Reader(blob)
    key_type = reader.string().decode("ascii", "replace")
    if key_type not in KEY_TYPES:
        raise ValueError("the key data has no supported key type; copy the line again")
    facts = PublicKeyInfo(key_type, KEY_TYPES[key_type](reader))
    reader.end()
    return facts


def too_weak(blob: bytes) -> bool:
    """Whether the blob is an RSA key that is too short; False for malformed blobs."""
    try:
        return parse_blob(blob).too_weak
    except ValueError:
        return False


class Reader:
    """Reads the fields of a blob in order. Raises ValueError if the blob is too short."""

    def __init__(self, blob: bytes) -> None:
        self._rest = blob

    @property
    def rest(self) -> bytes:
        """The bytes not read yet."""
        return self._rest

    def number(self, size: int) -> int:
        """An unsigned integer of `size` bytes."""
        if len(self._rest) < size:
            raise ValueError("the key data is cut short; copy the whole line again")
        field, self._rest = self._rest[:size], self._rest[size:]
        return int.from_bytes(field, "big")

    def string(self) -> bytes:
        """A string (RFC 4251 §5): a uint32 length and that many bytes."""
        size = int.from_bytes(self._rest[:4], "big")
        if len(self._rest) < 4 + size:
            raise ValueError("the key data is cut short; copy the whole line again")
        field, self._rest = self._rest[4 : 4 + size], self._rest[4 + size :]
        return field

    def positive(self) -> int:
        """A positive mpint in the canonical form of RFC 4251 §5.

        Keys are compared as bytes, so another encoding would be a different key.
        """
        field = self.string()
        value = int.from_bytes(field, "big", signed=True)
        if value <= 0 or len(field) != value.bit_length() // 8 + 1:
            raise ValueError("the key data holds a malformed number; copy the line again")
        return value

    def end(self) -> None:
        """Raises ValueError if bytes are left."""
        if self._rest:
            raise ValueError(f"the key data has {len(self._rest)} bytes too many; copy it again")


def _read_ed25519(reader: Reader) -> None:
    if len(reader.string()) != _ED25519_BYTES:
        raise ValueError("the ed25519 key does not have 32 bytes; copy the line again")


def _read_ecdsa(curve_name: str, curve: ec.EllipticCurve) -> Callable[[Reader], None]:
    def read(reader: Reader) -> None:
        if reader.string() != curve_name.encode("ascii"):
            raise ValueError(
                f"the key is not on the curve of its type, {curve_name}; copy it again"
            )
        point = reader.string()
        try:
            if point[:1] != bytes([_UNCOMPRESSED]):
                raise ValueError
            ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
        except ValueError:
            raise ValueError(
                f"the key is not a point on {curve_name}; copy the line again"
            ) from None

    return read


def _read_rsa(reader: Reader) -> int:
    exponent, modulus = reader.positive(), reader.positive()
    bits = modulus.bit_length()
    if bits > MAX_RSA_BITS:
        raise ValueError(f"the RSA key has {bits} bits; at most {MAX_RSA_BITS} are accepted")
    if exponent < 3 or exponent % 2 == 0 or exponent >= modulus or modulus % 2 == 0:
        raise ValueError("the RSA key has an invalid modulus or exponent; copy the line again")
    return bits


def _sk(read_key: Callable[[Reader], None]) -> Callable[[Reader], None]:
    """A FIDO key (PROTOCOL.u2f): the fields of the plain key, then the application."""

    def read(reader: Reader) -> None:
        read_key(reader)
        reader.string()

    return read


_read_p256 = _read_ecdsa("nistp256", ec.SECP256R1())

KEY_TYPES: Mapping[str, Callable[[Reader], int | None]] = MappingProxyType(
    {
        "ssh-ed25519": _read_ed25519,
        "ecdsa-sha2-nistp256": _read_p256,
        "ecdsa-sha2-nistp384": _read_ecdsa("nistp384", ec.SECP384R1()),
        "ecdsa-sha2-nistp521": _read_ecdsa("nistp521", ec.SECP521R1()),
        "ssh-rsa": _read_rsa,
        "sk-ssh-ed25519@openssh.com": _sk(_read_ed25519),
        "sk-ecdsa-sha2-nistp256@openssh.com": _sk(_read_p256),
    }
)
