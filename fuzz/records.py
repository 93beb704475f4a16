"""Connections of the packet layer behind their login, without a network.

An input is made of items, as `_items` reads them: bytes as they are, or packets that are sealed
with the right key, so that more is fuzzed than the tag. The same stream goes to a connection that
opens packets itself and to one that leaves all to asyncssh, and has to have the same effect.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from struct import pack
from typing import Any, Final

import asyncssh
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.encryption import get_encryption
from asyncssh.packet import PacketDecodeError

from sftp_gateway.server.limits.scheduler import Scheduler
from sftp_gateway.server.packets.ciphers import (
    LENGTH,
    TAG,
    AesGcm,
    ChaCha20Poly1305,
    PacketCipher,
)
from sftp_gateway.server.packets.connection import PacketConnection

_KEY, _IV = bytes(range(64)), bytes(range(12))

#: The first byte of an input chooses one: its name, the length of its key and block, and ours.
_CIPHERS: Final[tuple[tuple[bytes, int, int, Callable[[], PacketCipher]], ...]] = (
    (b"aes128-gcm@openssh.com", 16, 16, lambda: AesGcm(_KEY[:16], _IV)),
    (b"aes256-gcm@openssh.com", 32, 16, lambda: AesGcm(_KEY[:32], _IV)),
    (b"chacha20-poly1305@openssh.com", 64, 8, lambda: ChaCha20Poly1305(_KEY)),
)

#: Small enough to be overrun, and filled up again, within one input.
_WINDOW: Final = 4096

#: The longest `packet_length` that asyncssh takes, unless a channel has packets that are longer.
_MAX_PACKET: Final[int] = asyncssh.connection._DEFAULT_RECV_PKTLEN

_OPTIONS = asyncssh.SSHServerConnectionOptions(
    server_factory=asyncssh.SSHServer,
    server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
    login_timeout=0,
    keepalive_interval=0,
    config=None,
)

_loop = asyncio.new_event_loop()
_socket = socket.socket()


End = tuple[type[BaseException] | None, int]

#: RFC 4253 §6: "the minimum size of a packet is 16" bytes, with `packet_length`.
_LEAST: Final = 12


@dataclass(slots=True)
class Effect:
    """What a stream did: bytes that came on the channel, its window for answers, and the end.

    `ended` has the kind of error and its code, or is None while the connection goes on; `unread` is
    the most that was left of the stream while nothing was awaited.
    """

    receive: bytearray = field(default_factory=bytearray)
    window: int = 0
    ended: End | None = None
    unread: int = 0
    new_keys: bool = False


def effects(data: bytes) -> tuple[Effect, Effect]:
    """Of an input on a connection of ours, and on asyncssh's."""
    sealed_memfd = stream(data)
    step = 1 + 32 * data[1] if len(data) > 1 else 1
    return _loop.run_until_complete(_effects(data[0] if data else 0, sealed_memfd, step))


def bound(data: bytes) -> int:
    """Most that may be left unread: a packet that is not whole, and what came last."""
    step = 1 + 32 * data[1] if len(data) > 1 else 1
    return _MAX_PACKET + LENGTH + TAG + step


def ends_as_documented(effect: Effect) -> bool:
    """Whether the connection continues, or ends with an error of SSH or of its decoder."""
    error = effect.ended and effect.ended[0]
    return error is None or issubclass(error, asyncssh.DisconnectError | PacketDecodeError)


def has_runts(data: bytes) -> bool:
    """Whether a packet is shorter than any may be: asyncssh then looks for the tag elsewhere."""
    return any(kind == 1 and len(content) < _LEAST for kind, content in _items(data))


def stream(data: bytes) -> bytes:
    """The bytes on the wire."""
    cipher = _CIPHERS[data[0] % len(_CIPHERS) if data else 0][3]()
    seq, out = 0, []
    for kind, content in _items(data):
        if kind == 0:
            out.append(content)
            continue
        sealed_memfd = bytearray(LENGTH + len(packet := _packet(kind, content)) + TAG)
        header = len(packet).to_bytes(LENGTH, "big")
        cipher.seal(seq, memoryview(header + packet), memoryview(sealed_memfd))
        seq += 1
        if kind == 5:
            sealed_memfd[len(content) % len(sealed_memfd)] ^= 1
        out.append(bytes(sealed_memfd))
    return b"".join(out)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Behind two bytes: a kind, a length of two bytes, content; and so on."""
    rest = data[2:]
    while len(rest) >= 3:
        length = int.from_bytes(rest[1:3], "big")
        yield rest[0] % 6, rest[3 : 3 + length]
        rest = rest[3 + length :]


def _packet(kind: int, content: bytes) -> bytes:
    """A packet from padding_length on: as it is, or a payload with the padding that it needs."""
    if kind == 1:
        return content
    payload = content
    if kind == 2:
        payload = pack(">BII", MSG_CHANNEL_DATA, 0, len(content)) + content
    elif kind == 3:
        payload = pack(">BI", MSG_CHANNEL_WINDOW_ADJUST, 0) + content[:4].rjust(4, b"\0")
    padding = 4 + -(len(payload) + 5) % 16
    return bytes([padding]) + payload + bytes(padding)


async def _effects(number: int, sealed_memfd: bytes, step: int) -> tuple[Effect, Effect]:
    name, key, block, ours = _CIPHERS[number % len(_CIPHERS)]
    theirs = get_encryption(name, _KEY[:key], _IV)
    return (
        await _effect(ours(), ours(), block, sealed_memfd, step),
        await _effect(theirs, get_encryption(name, _KEY[:key], _IV), block, sealed_memfd, step),
    )


async def _effect(receiver: Any, sender: Any, block: int, sealed_memfd: bytes, step: int) -> Effect:
    effect = Effect()
    connection, channel = _logged_in(effect, receiver, sender, block)
    for piece in _pieces(sealed_memfd, step):
        connection.data_received(piece)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if connection._transport is None:
            break
        if not connection._tasks:
            effect.unread = max(effect.unread, len(connection._inpbuf))
    assert not connection._received, "data is kept back"
    effect.window = channel._send_window
    effect.new_keys = connection._recv_encryption is not receiver
    going_on = effect.ended is None
    connection.abort()
    await connection.wait_closed()
    if going_on:
        effect.ended = None
    return effect


def _pieces(sealed_memfd: bytes, step: int) -> Iterator[bytes]:
    for start in range(0, len(sealed_memfd), step):
        yield sealed_memfd[start : start + step]


def _logged_in(
    effect: Effect, receiver: Any, sender: Any, block: int
) -> tuple[PacketConnection, Any]:
    """A connection behind its login, with one channel that is open."""
    connection: Any = PacketConnection(
        _loop, _OPTIONS, scheduler=Scheduler(_loop, clock=lambda: 0.0), own_packet_layer=True
    )
    connection.connection_made(_Wire())
    connection._owner = _Owner(effect)
    connection._recv_encryption, connection._send_encryption = receiver, sender
    connection._recv_blocksize = connection._send_blocksize = block
    connection._recv_macsize, connection._send_enchdrlen = TAG, 1
    connection._auth_complete = connection._kex_complete = True
    connection._client_version = b"SSH-2.0-fuzz"
    connection._recv_handler = connection._recv_pkthdr
    connection._rekey_bytes = 1 << 30
    channel: Any = connection.create_server_channel(None, "strict", _WINDOW, _WINDOW)
    channel._session, channel._recv_paused = _Session(effect), False
    channel._send_chan, channel._send_pktsize = 0, 32768
    channel._send_state = channel._recv_state = "open"
    return connection, channel


class _Owner(asyncssh.SSHServer):
    """Sees how the connection ends."""

    def __init__(self, effect: Effect) -> None:
        self._effect = effect

    def connection_lost(self, exc: Exception | None) -> None:
        self._effect.ended = (exc and type(exc), getattr(exc, "code", 0))


class _Session(asyncssh.SSHServerSession[bytes]):
    """Sees what comes on the channel."""

    def __init__(self, effect: Effect) -> None:
        self._effect = effect

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._effect.receive += data


class _Wire(asyncio.Transport):
    """A transport to nowhere."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _socket if name == "socket" else default

    def get_write_buffer_size(self) -> int:
        return 1

    def write(self, data: Any) -> None:
        pass

    def writelines(self, list_of_data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass
