"""The ciphers and asyncssh's encrypt alike, and each can continue the other's stream."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from asyncssh.encryption import Encryption, get_encryption

from sftp_gateway.server.packets.ciphers import (
    LENGTH,
    TAG,
    AesGcm,
    ChaCha20Poly1305,
    PacketCipher,
)

KEY = os.urandom(64)
IV = os.urandom(12)

Make = Callable[[bytes], PacketCipher]

CIPHERS = {
    b"aes128-gcm@openssh.com": lambda iv: AesGcm(KEY[:16], iv),
    b"aes256-gcm@openssh.com": lambda iv: AesGcm(KEY[:32], iv),
    b"chacha20-poly1305@openssh.com": lambda iv: ChaCha20Poly1305(KEY),
}
KEY_LENGTHS = {
    b"aes128-gcm@openssh.com": 16,
    b"aes256-gcm@openssh.com": 32,
    b"chacha20-poly1305@openssh.com": 64,
}

every_cipher = pytest.mark.parametrize("name", CIPHERS, ids=lambda name: name.decode())


def theirs(name: bytes, iv: bytes = IV) -> Encryption:
    return get_encryption(name, KEY[: KEY_LENGTHS[name]], iv)


def packet(length: int) -> tuple[bytes, bytes]:
    """A packet with its `packet_length`."""
    return length.to_bytes(LENGTH, "big"), os.urandom(length)


def seal(cipher: PacketCipher, seq: int, header: bytes, body: bytes) -> bytes:
    sealed = bytearray(len(header) + len(body) + TAG)
    cipher.seal(seq, memoryview(header + body), memoryview(sealed))
    return bytes(sealed)


@every_cipher
@pytest.mark.parametrize("length", [16, 48, 32_784, 262_144])
def test_packets_are_encrypted_as_by_asyncssh(name: bytes, length: int) -> None:
    ours, other = CIPHERS[name](IV), theirs(name)
    for seq in (0, 1, 2, 3):
        header, body = packet(length)
        assert seal(ours, seq, header, body) == b"".join(other.encrypt_packet(seq, header, body))


@every_cipher
def test_packets_of_asyncssh_are_decrypted(name: bytes) -> None:
    ours, other = CIPHERS[name](IV), theirs(name)
    for seq in (7, 8, 0xFFFFFFFF, 0):
        header, body = packet(64)
        sealed = b"".join(other.encrypt_packet(seq, header, body))
        assert ours.length(seq, sealed) == len(body)
        assert ours.open(seq, memoryview(sealed)) == body
        ours.unread()
        assert ours.open(seq, memoryview(sealed)) == body  # asyncssh may decrypt again


@every_cipher
def test_asyncssh_can_use_the_cipher(name: bytes) -> None:
    """Encrypt and decrypt alternately with both implementations."""
    sender, receiver, other = CIPHERS[name](IV), CIPHERS[name](IV), theirs(name)
    for seq in range(6):
        header, body = packet(32)
        if seq % 2:
            sealed = seal(sender, seq, header, body)
        else:
            sealed = b"".join(sender.encrypt_packet(seq, header, body))
        block = 8 if name.startswith(b"chacha") else 16
        for opener in (receiver, other):
            first, length = opener.decrypt_header(seq, sealed[:block], LENGTH)
            assert length == header
            rest, tag = sealed[block:-TAG], sealed[-TAG:]
            assert opener.decrypt_packet(seq, first, rest, LENGTH, tag) == body


@every_cipher
@pytest.mark.parametrize("place", [0, 5, 40, -1])
def test_an_altered_packet_is_not_decrypted(name: bytes, place: int) -> None:
    header, body = packet(48)
    sealed = bytearray(seal(CIPHERS[name](IV), 3, header, body))
    sealed[place] ^= 1
    assert CIPHERS[name](IV).open(3, memoryview(sealed)) is None


@every_cipher
def test_a_reordered_packet_is_not_decrypted(name: bytes) -> None:
    header, body = packet(48)
    sender, receiver = CIPHERS[name](IV), CIPHERS[name](IV)
    seal(sender, 0, header, body)
    second = seal(sender, 1, header, body)
    assert receiver.open(0, memoryview(second)) is None


def test_the_sequence_number_wraps() -> None:
    """RFC 5647 §7.1: the invocation counter is "treated as a 64-bit unsigned integer"."""
    iv = IV[:4] + b"\xff" * 8
    ours, other = AesGcm(KEY[:16], iv), theirs(b"aes128-gcm@openssh.com", iv)
    for seq in range(3):
        header, body = packet(16)
        assert seal(ours, seq, header, body) == b"".join(other.encrypt_packet(seq, header, body))
