"""An SSH client on a blocking socket that can send arbitrary messages.

It knows one algorithm of each kind (RFC 8731, RFC 5647, RFC 8709), does not verify the host key,
and skips unneeded parts of the protocol. `seal` encrypts packets ahead of time, so that a burst of
them can be written at once.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import socket
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from tests.support.sftp_wire import string, uint32

MSG_DISCONNECT, MSG_UNIMPLEMENTED, MSG_SERVICE_REQUEST, MSG_SERVICE_ACCEPT = 1, 3, 5, 6
MSG_KEXINIT, MSG_NEWKEYS, MSG_KEX_ECDH_INIT, MSG_KEX_ECDH_REPLY = 20, 21, 30, 31
MSG_USERAUTH_REQUEST, MSG_USERAUTH_FAILURE, MSG_USERAUTH_SUCCESS = 50, 51, 52
MSG_GLOBAL_REQUEST, MSG_REQUEST_FAILURE = 80, 82
MSG_CHANNEL_OPEN, MSG_CHANNEL_OPEN_CONFIRMATION, MSG_CHANNEL_OPEN_FAILURE = 90, 91, 92
MSG_CHANNEL_WINDOW_ADJUST, MSG_CHANNEL_DATA = 93, 94
MSG_CHANNEL_EXTENDED_DATA, MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE = 95, 96, 97
MSG_CHANNEL_REQUEST = 98
MSG_CHANNEL_SUCCESS, MSG_CHANNEL_FAILURE = 99, 100

_BANNER = b"SSH-2.0-OpenSSH_9.9"
_KEX, _HOST_KEY, _CIPHER = b"curve25519-sha256", b"ssh-ed25519", b"aes128-gcm@openssh.com"
_MAC, _ZLIB = b"hmac-sha2-256-etm@openssh.com", b"zlib@openssh.com"
_TAG = 16


class SshError(Exception):
    """The server ended the connection, or sent what is not expected."""


class _Cipher:
    """AES-GCM as RFC 5647 uses it: the nonce counts packets, and the length is in the clear."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        self._fixed, self._count = iv[:4], int.from_bytes(iv[4:], "big")

    def skip(self, packets: int) -> None:
        self._count = (self._count + packets) % 2**64

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._count.to_bytes(8, "big")
        self.skip(1)
        return nonce

    def seal(self, length: bytes, packet: bytes) -> bytes:
        return length + self._aead.encrypt(self._nonce(), packet, length)

    def open(self, length: bytes, packet: bytes) -> bytes:
        return self._aead.decrypt(self._nonce(), packet, length)


@dataclass(slots=True)
class Channel:
    """A channel that is open; `data` came on it, and `window` bytes may be sent on it."""

    ours: int
    theirs: int
    window: int
    data: bytearray


#: Source addresses, in turn: an interrupted connection delays the next one from its address.
_SOURCES: Final = itertools.cycle(f"127.0.1.{number}" for number in range(1, 251))


class RawSsh:
    """A connection to 127.0.0.1. Methods raise SshError when the server ends it.

    `compress`: send compressed by zlib once logged in; the server does not.
    """

    def __init__(self, port: int, *, compress: bool = False, timeout: float = 60.0) -> None:
        self.socket = socket.create_connection(
            ("127.0.0.1", port), timeout, source_address=(next(_SOURCES), 0)
        )
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.channels: dict[int, Channel] = {}
        self.host_key = b""
        self._compress = compress
        self._compressor: zlib._Compress | None = None
        self._received = bytearray()
        self._sealer: _Cipher | None = None
        self._opener: _Cipher | None = None
        self._session = b""
        self.socket.sendall(_BANNER + b"\r\n")
        while b"\n" not in self._received:
            self._receive_more()
        line, _, rest = self._received.partition(b"\n")
        self._their_banner, self._received = bytes(line.rstrip()), rest

    def close(self) -> None:
        self.socket.close()

    # Packets

    def seal(self, payload: bytes) -> bytes:
        """Encrypt the next packet; packets must be sent in this order."""
        if self._compressor is not None:
            compressed = self._compressor.compress(payload)
            payload = compressed + self._compressor.flush(zlib.Z_PARTIAL_FLUSH)
        if self._sealer is None:
            padding = 4 + -(5 + len(payload) + 4) % 8
        else:
            padding = 4 + -(1 + len(payload) + 4) % 16
        packet = bytes([padding]) + payload + bytes(padding)
        length = uint32(len(packet))
        return length + packet if self._sealer is None else self._sealer.seal(length, packet)

    def send(self, *payloads: bytes) -> None:
        self.socket.sendall(b"".join(map(self.seal, payloads)))

    def receive(self) -> bytes:
        """The payload of the next packet."""
        tag = 0 if self._opener is None else _TAG
        while len(self._received) < 4 or len(self._received) < self._end(0, tag):
            self._receive_more()
        end = self._end(0, tag)
        payload = self._opened(bytes(self._received[:end]))
        del self._received[:end]
        return payload

    def last_payload(self, received: bytes) -> bytes:
        """The last payload in what the socket gave since the last `receive`.

        b"" for none, or where the server has taken keys into use that were not derived here.
        """
        data, tag = self._received + received, 0 if self._opener is None else _TAG
        start = last = 0
        packets = 0
        self._received = data
        while len(data) >= start + 4 and len(data) >= self._end(start, tag):
            last, start = start, self._end(start, tag)
            packets += 1
        if not packets:
            return b""
        if self._opener is not None:
            self._opener.skip(packets - 1)
        try:
            return self._opened(bytes(data[last:start]))
        except InvalidTag:
            return b""

    def _end(self, start: int, tag: int) -> int:
        return start + 4 + int.from_bytes(self._received[start : start + 4], "big") + tag

    def _opened(self, packet: bytes) -> bytes:
        body = packet[4:]
        if self._opener is not None:
            body = self._opener.open(packet[:4], body)
        return body[1 : len(body) - body[0]]

    def _receive_more(self) -> None:
        try:
            data = self.socket.recv(1 << 20)
        except OSError as error:
            raise SshError(f"no answer: {error}") from error
        if not data:
            raise SshError("the server closed the connection")
        self._received += data

    def wait_for(self, *kinds: int) -> bytes:
        """The next payload of one of these types; others are handled or skipped."""
        while (payload := self.receive())[0] not in kinds:
            self._serve(payload)
        return payload

    def _serve(self, payload: bytes) -> None:
        kind = payload[0]
        if kind == MSG_DISCONNECT:
            raise SshError(f"disconnected: {disconnect_reason(payload)}")
        if kind == MSG_GLOBAL_REQUEST:
            name = payload[5 : 5 + int.from_bytes(payload[1:5], "big")]
            if payload[5 + len(name)]:
                self.send(bytes([MSG_REQUEST_FAILURE]))
        elif kind == MSG_CHANNEL_DATA:
            self.channels[int.from_bytes(payload[1:5], "big")].data += payload[9:]

    # Transport and login

    def kexinit(self) -> bytes:
        """A KEXINIT without strict key exchange, which would forbid most attacks."""
        compression = _ZLIB if self._compress else b"none"
        names = (_KEX, _HOST_KEY, _CIPHER, _CIPHER, _MAC, _MAC, compression, b"none", b"", b"")
        lists = b"".join(map(string, names))
        return bytes([MSG_KEXINIT]) + os.urandom(16) + lists + bytes(5)

    def begin_exchange(self) -> None:
        """Send and receive a KEXINIT, without completing the exchange."""
        self._our_kexinit = self.kexinit()
        self.send(self._our_kexinit)
        self._their_kexinit = self.wait_for(MSG_KEXINIT)

    def exchange_keys(self) -> None:
        """A complete key exchange (RFC 8731, RFC 4253 §7.2)."""
        self.begin_exchange()
        ours = X25519PrivateKey.generate()
        public = ours.public_key().public_bytes_raw()
        self.send(bytes([MSG_KEX_ECDH_INIT]) + string(public))
        reply = self.wait_for(MSG_KEX_ECDH_REPLY)[1:]
        self.host_key, rest = _take_string(reply)
        theirs, _ = _take_string(rest)
        shared = ours.exchange(X25519PublicKey.from_public_bytes(theirs)).lstrip(b"\0")
        if shared[0] & 0x80:
            shared = b"\0" + shared
        secret = string(shared)
        strings = (
            _BANNER, self._their_banner, self._our_kexinit, self._their_kexinit, self.host_key,
            public, theirs,
        )  # fmt: skip
        digest = hashlib.sha256(b"".join(map(string, strings)) + secret).digest()
        self._session = self._session or digest

        def derived(letter: bytes) -> bytes:
            return hashlib.sha256(secret + digest + letter + self._session).digest()

        self.send(bytes([MSG_NEWKEYS]))
        self._sealer = _Cipher(derived(b"C")[:16], derived(b"A")[:12])
        if self._compressor is not None:
            self._compressor = zlib.compressobj()  # RFC 4253 §6.2: "after each key exchange"
        self.wait_for(MSG_NEWKEYS)
        self._opener = _Cipher(derived(b"D")[:16], derived(b"B")[:12])

    def request_service(self) -> None:
        self.send(bytes([MSG_SERVICE_REQUEST]) + string(b"ssh-userauth"))
        self.wait_for(MSG_SERVICE_ACCEPT)

    def log_in(self, user: str, private: Path) -> None:
        """By an Ed25519 key (RFC 4252 §7)."""
        key, public = _private_key(private), public_blob(private)
        request = (
            bytes([MSG_USERAUTH_REQUEST]) + string(user.encode()) + string(b"ssh-connection")
            + string(b"publickey") + b"\1" + string(_HOST_KEY) + string(public)
        )  # fmt: skip
        signature = key.sign(string(self._session) + request)
        self.send(request + string(string(_HOST_KEY) + string(signature)))
        if self.wait_for(MSG_USERAUTH_SUCCESS, MSG_USERAUTH_FAILURE)[0] == MSG_USERAUTH_FAILURE:
            raise SshError("the login was refused")
        if self._compress:
            self._compressor = zlib.compressobj()

    # Channels

    def open_sftp(self, *, window: int = 2**31 - 1, max_packet: int = 32 * 1024) -> Channel:
        """A session channel with the SFTP subsystem."""
        ours = len(self.channels)
        self.send(
            bytes([MSG_CHANNEL_OPEN]) + string(b"session") + uint32(ours) + uint32(window)
            + uint32(max_packet)
        )  # fmt: skip
        answer = self.wait_for(MSG_CHANNEL_OPEN_CONFIRMATION, MSG_CHANNEL_OPEN_FAILURE)
        if answer[0] == MSG_CHANNEL_OPEN_FAILURE:
            raise SshError("the channel was refused")
        theirs, granted = (int.from_bytes(answer[at : at + 4], "big") for at in (5, 9))
        channel = Channel(ours, theirs, granted, bytearray())
        self.channels[ours] = channel
        self.send(
            bytes([MSG_CHANNEL_REQUEST]) + uint32(channel.theirs) + string(b"subsystem") + b"\1"
            + string(b"sftp")
        )  # fmt: skip
        if self.wait_for(MSG_CHANNEL_SUCCESS, MSG_CHANNEL_FAILURE)[0] == MSG_CHANNEL_FAILURE:
            raise SshError("the subsystem was refused")
        return channel

    def send_data(self, channel: Channel, data: bytes) -> None:
        channel.window -= len(data)
        self.send(bytes([MSG_CHANNEL_DATA]) + uint32(channel.theirs) + string(data))

    def receive_sftp(self, channel: Channel) -> bytes:
        """The next SFTP packet on the channel, without its length."""
        data = channel.data
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            self._serve(self.receive())
        end = 4 + int.from_bytes(data[:4], "big")
        packet = bytes(data[4:end])
        del data[:end]
        return packet


@functools.cache
def _private_key(path: Path) -> Ed25519PrivateKey:
    key = load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def public_blob(private: Path) -> bytes:
    """The public half of an Ed25519 key (RFC 8709 §4)."""
    public = _private_key(private).public_key()
    return string(_HOST_KEY) + string(public.public_bytes_raw())


def disconnect_reason(payload: bytes) -> str:
    """Code and description of a DISCONNECT (RFC 4253 §11.1)."""
    text, _ = _take_string(payload[5:])
    return f"{int.from_bytes(payload[1:5], 'big')} {text.decode(errors='replace')}"


def _take_string(data: bytes) -> tuple[bytes, bytes]:
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]
