from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sftp_gateway.auth.keys.blobs import fingerprint, parse_blob, too_weak


def wire(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def mpint(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big")


def point(format: PublicFormat = PublicFormat.UncompressedPoint) -> bytes:
    return ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(Encoding.X962, format)


def rsa(bits: int, *, exponent: int = 65537) -> bytes:
    return wire(b"ssh-rsa", mpint(exponent), mpint((1 << (bits - 1)) + 1))


SK_ED25519 = wire(b"sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:")
SK_ECDSA = wire(b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", point(), b"ssh:")
ED25519 = wire(b"ssh-ed25519", bytes(32))
ECDSA = wire(b"ecdsa-sha2-nistp256", b"nistp256", point())


@pytest.mark.parametrize(
    ("arguments", "key_type"),
    [
        (("-t", "ed25519"), "ssh-ed25519"),
        (("-t", "ecdsa", "-b", "256"), "ecdsa-sha2-nistp256"),
        (("-t", "ecdsa", "-b", "384"), "ecdsa-sha2-nistp384"),
        (("-t", "ecdsa", "-b", "521"), "ecdsa-sha2-nistp521"),
        (("-t", "rsa", "-b", "2048"), "ssh-rsa"),
    ],
)
def test_keys_of_ssh_keygen_have_its_fingerprints(
    keygen: Callable[..., str],
    listed: Callable[[str], list[str]],
    arguments: tuple[str, ...],
    key_type: str,
) -> None:
    line = keygen(*arguments)
    blob = base64.b64decode(line.split()[1])
    facts = parse_blob(blob)
    bits, name = listed(line)[:2]
    assert facts.key_type == key_type
    assert facts.rsa_bits == (int(bits) if key_type == "ssh-rsa" else None)
    assert fingerprint(blob) == name


@pytest.mark.parametrize("blob", [SK_ED25519, SK_ECDSA])
def test_security_keys_are_parsed_as_by_ssh_keygen(
    listed: Callable[[str], list[str]], blob: bytes
) -> None:
    key_type = parse_blob(blob).key_type
    line = f"{key_type} {base64.b64encode(blob).decode()} token"
    assert listed(line)[1] == fingerprint(blob)


@pytest.mark.parametrize("blob", [ED25519, ECDSA, SK_ED25519, SK_ECDSA, rsa(2048)])
def test_a_truncated_or_overlong_key_is_rejected(blob: bytes) -> None:
    for size in range(len(blob)):
        with pytest.raises(ValueError, match="copy"):
            parse_blob(blob[:size])
    with pytest.raises(ValueError, match="1 bytes too many"):
        parse_blob(blob + b"\x00")


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xff" * 64,
        wire(b"ssh-dss", b"\x05", b"\x07"),
        wire(b"ssh-ed25519-cert-v01@openssh.com", bytes(32), bytes(32)),
        wire(b"ssh-ed25519", bytes(31)),
        wire(b"ecdsa-sha2-nistp256", b"nistp384", point()),
        wire(b"ecdsa-sha2-nistp256", b"nistp256", b"\x04" + bytes(64)),
        wire(b"ecdsa-sha2-nistp256", b"nistp256", point(PublicFormat.CompressedPoint)),
        wire(b"ecdsa-sha2-nistp256", b"nistp256", b""),
        wire(b"ssh-rsa", mpint(65537), b"\x80" + bytes(255)),
        wire(b"ssh-rsa", mpint(65537), b"\x00" + mpint((1 << 2047) + 1)),
        wire(b"ssh-rsa", b"", mpint((1 << 2047) + 1)),
        wire(b"ssh-rsa", mpint(65537), mpint(1 << 2047)),
        wire(b"ssh-rsa", mpint(65537), mpint(3)),
        rsa(2048, exponent=1),
        rsa(2048, exponent=65536),
        rsa(16385),
    ],
)
def test_a_malformed_or_unsupported_key_is_rejected(blob: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        parse_blob(blob)
    assert not too_weak(blob)


@pytest.mark.parametrize(("bits", "weak"), [(1024, True), (2047, True), (2048, False)])
def test_rsa_below_2048_bits_is_too_weak(bits: int, weak: bool) -> None:
    assert parse_blob(rsa(bits)).rsa_bits == bits
    assert too_weak(rsa(bits)) is weak


def test_the_largest_rsa_key_is_read() -> None:
    assert parse_blob(rsa(16384)).rsa_bits == 16384
