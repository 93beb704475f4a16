"""SSH's AEAD ciphers, set up once for each key.

An object serves one direction. asyncssh and `connection` use the same object, so either may handle
the next packet. asyncssh calls `encrypt_packet`, `decrypt_header` and `decrypt_packet`.

| cipher                               | source                               |
|--------------------------------------|--------------------------------------|
| aes128-gcm@, aes256-gcm@openssh.com  | RFC 5647, OpenSSH PROTOCOL §1.6       |
| chacha20-poly1305@openssh.com        | OpenSSH PROTOCOL.chacha20poly1305    |
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

#: Bytes of `packet_length`, and of the authentication tag.
LENGTH: Final = 4
TAG: Final = 16

_INVOCATION_MASK: Final = (1 << 64) - 1


class PacketCipher:
    """The cipher of one direction. `seq` is a packet's sequence number (RFC 4253 §6.4)."""

    def seal(self, seq: int, packet: memoryview, sealed: memoryview) -> None:
        """Encrypt `packet`, with its `packet_length`, into `sealed`, which is TAG bytes longer."""
        raise NotImplementedError

    def length(self, seq: int, start: bytes) -> int:
        """The `packet_length` of the packet that begins with `start` (at least LENGTH bytes).

        It is not authenticated yet.
        """
        raise NotImplementedError

    def open(self, seq: int, sealed: memoryview) -> bytes | None:
        """Decrypt a packet, without its `packet_length`; None if the tag is wrong.

        The cipher expects the next packet then, unless `unread` is called.
        """
        raise NotImplementedError

    def unread(self) -> None:
        """Expect the packet that was opened last again."""
        raise NotImplementedError

    # Called by asyncssh

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Encrypt `header` (the `packet_length`) and `packet`; return the bytes and the tag."""
        sealed = bytearray(len(header) + len(packet) + TAG)
        self.seal(seq, memoryview(header + packet), memoryview(sealed))
        return bytes(sealed[:-TAG]), bytes(sealed[-TAG:])

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        """Return the `first` for `decrypt_packet`, and the `packet_length` in clear."""
        return first_block, self.length(seq, first_block).to_bytes(header_len, "big")

    def decrypt_packet(
        self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes
    ) -> bytes | None:
        """Decrypt a packet, without its `packet_length`; None if the tag is wrong."""
        return self.open(seq, memoryview(first + rest + mac))


class AesGcm(PacketCipher):
    """AES-GCM. The nonce is 4 fixed bytes and an invocation counter of 8 (RFC 5647 §7.1).

    `packet_length` is sent in clear, as associated data (§7.3).
    """

    def __init__(self, key: bytes, iv: bytes) -> None:
        """`iv` is the 12-byte nonce of the next packet."""
        self._cipher = AESGCM(key)
        self._fixed = iv[:4]
        self._invocation = int.from_bytes(iv[4:], "big")

    def seal(self, seq: int, packet: memoryview, sealed: memoryview) -> None:
        """See PacketCipher."""
        nonce = self._fixed + self._invocation.to_bytes(8, "big")
        length = packet[:LENGTH]
        sealed[:LENGTH] = length
        self._cipher.encrypt_into(nonce, packet[LENGTH:], length, sealed[LENGTH:])
        self._invocation = (self._invocation + 1) & _INVOCATION_MASK

    def length(self, seq: int, start: bytes) -> int:
        """See PacketCipher."""
        return int.from_bytes(start[:LENGTH], "big")

    def open(self, seq: int, sealed: memoryview) -> bytes | None:
        """See PacketCipher."""
        nonce = self._fixed + self._invocation.to_bytes(8, "big")
        try:
            packet = self._cipher.decrypt(nonce, sealed[LENGTH:], sealed[:LENGTH])
        except InvalidTag:
            return None
        self._invocation = (self._invocation + 1) & _INVOCATION_MASK
        return packet

    def unread(self) -> None:
        """See PacketCipher."""
        self._invocation = (self._invocation - 1) & _INVOCATION_MASK


_BLOCK: Final = bytes(64)
_POLY_KEY: Final = 32


class ChaCha20Poly1305(PacketCipher):
    """OpenSSH's chacha20-poly1305: `packet_length` is encrypted with a key of its own.

    The nonce is the sequence number. Block 0 of the main key's stream is the Poly1305 key; the
    packet is encrypted with the blocks from 1 on.
    """

    def __init__(self, key: bytes) -> None:
        """`key` has 64 bytes: the main key, then the key for `packet_length`."""
        self._main = _stream(key[:32])
        self._lengths = _stream(key[32:])

    def seal(self, seq: int, packet: memoryview, sealed: memoryview) -> None:
        """See PacketCipher."""
        nonce = _nonce(seq)
        self._lengths.reset_nonce(nonce)
        self._main.reset_nonce(nonce)
        tag_key = self._main.update(_BLOCK)[:_POLY_KEY]
        end = len(packet)
        self._lengths.update_into(packet[:LENGTH], sealed[:LENGTH])
        self._main.update_into(packet[LENGTH:], sealed[LENGTH:end])
        sealed[end:] = Poly1305.generate_tag(tag_key, sealed[:end])

    def length(self, seq: int, start: bytes) -> int:
        """See PacketCipher."""
        self._lengths.reset_nonce(_nonce(seq))
        return int.from_bytes(self._lengths.update(start[:LENGTH]), "big")

    def open(self, seq: int, sealed: memoryview) -> bytes | None:
        """See PacketCipher."""
        self._main.reset_nonce(_nonce(seq))
        tag_key = self._main.update(_BLOCK)[:_POLY_KEY]
        try:
            Poly1305.verify_tag(tag_key, sealed[:-TAG], bytes(sealed[-TAG:]))
        except InvalidSignature:
            return None
        return self._main.update(sealed[LENGTH:-TAG])

    def unread(self) -> None:
        """See PacketCipher. The sequence number is all the state there is."""


def _stream(key: bytes) -> CipherContext:
    # ChaCha20 is its own inverse: an encryptor decrypts as well.
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()


def _nonce(seq: int) -> bytes:
    """A block counter of eight bytes, starting at 0, and the sequence number in eight."""
    return bytes(8) + seq.to_bytes(8, "big")
