"""AEAD ciphers of SSH, each set up once for its key and kept for every packet after that.

One object serves one direction. asyncssh's own code and ours use the same object in turn, so that
the count of packets goes on whoever handles the next one; the five methods that asyncssh calls are
named as it names them.

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

#: Bytes of `packet_length`, and of the tag behind the packet.
LENGTH: Final = 4
TAG: Final = 16

_INVOCATION_MASK: Final = (1 << 64) - 1


class PacketCipher:
    """A cipher of one direction. `seq` is the packet's sequence number (RFC 4253 §6.4)."""

    def seal(self, seq: int, packet: memoryview, sealed: memoryview) -> None:
        """Seal `packet`, from `packet_length` to the padding, into `sealed`: TAG bytes more."""
        raise NotImplementedError

    def length(self, seq: int, start: bytes) -> int:
        """`packet_length` of the packet that begins with `start`, of 4 bytes or more.

        Not authenticated yet: the packet may turn out to be forged.
        """
        raise NotImplementedError

    def open(self, seq: int, sealed: memoryview) -> bytes | None:
        """The packet from `padding_length` to the padding, or None where the tag is wrong.

        Once it was opened the next one is expected, unless it is `put_back`.
        """
        raise NotImplementedError

    def put_back(self) -> None:
        """The packet that was opened last is going to be opened again."""
        raise NotImplementedError

    # What asyncssh calls

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Sealed bytes and tag of `header` (`packet_length`) and `packet`."""
        sealed = bytearray(len(header) + len(packet) + TAG)
        self.seal(seq, memoryview(header + packet), memoryview(sealed))
        return bytes(sealed[:-TAG]), bytes(sealed[-TAG:])

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        """What to hand to `decrypt_packet` as `first`, and `packet_length` in clear."""
        return first_block, self.length(seq, first_block).to_bytes(header_len, "big")

    def decrypt_packet(
        self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes
    ) -> bytes | None:
        """The packet from `padding_length` on, or None where the tag is wrong."""
        return self.open(seq, memoryview(first + rest + mac))


class AesGcm(PacketCipher):
    """AES-GCM with the nonce of RFC 5647 §7.1: 4 fixed bytes, 8 that count the packets.

    `packet_length` is sent in clear, as associated data (§7.3).
    """

    def __init__(self, key: bytes, iv: bytes) -> None:
        """`iv` is the nonce of the next packet, of 12 bytes."""
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

    def put_back(self) -> None:
        """See PacketCipher."""
        self._invocation = (self._invocation - 1) & _INVOCATION_MASK


_BLOCK: Final = bytes(64)
_POLY_KEY: Final = 32


class ChaCha20Poly1305(PacketCipher):
    """ChaCha20 and Poly1305 as OpenSSH joins them; `packet_length` has a key of its own.

    The nonce is the sequence number. Block 0 of the main key's stream is the key of the tag; the
    packet is sealed with the blocks from 1 on.
    """

    def __init__(self, key: bytes) -> None:
        """`key` has 64 bytes: first the main key, then that of the lengths."""
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

    def put_back(self) -> None:
        """See PacketCipher; the sequence number says it all."""


def _stream(key: bytes) -> CipherContext:
    # ChaCha20 is its own inverse: one context does for both directions.
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()


def _nonce(seq: int) -> bytes:
    """Eight bytes of block counter, which starts at 0, and eight of the sequence number."""
    return bytes(8) + seq.to_bytes(8, "big")
