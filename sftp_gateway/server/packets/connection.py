"""An SSH connection that encrypts and decrypts channel data itself.

asyncssh handles key exchanges, logins, requests and closing. This module handles two kinds of
packet, which are nearly all of a session: CHANNEL_DATA both ways, and the client's WINDOW_ADJUST.
Packet by packet, it leaves to asyncssh whatever is out of the ordinary: other ciphers, compression,
a key exchange, a full window, a closing channel, a malformed packet. Both use the same cipher
objects and sequence numbers.

All work of a connection on the event loop happens within a time slice (limits/scheduler.py).

This is the one module that uses asyncssh's internals; `compatibility` lists them.
"""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import asyncssh
from asyncssh.compression import Decompressor
from asyncssh.constants import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from asyncssh.encryption import ChachaEncryption, Encryption, GCMEncryption
from asyncssh.packet import String, UInt32

from sftp_gateway.server.limits.scheduler import Scheduler, TimeSlice
from sftp_gateway.server.packets.ciphers import (
    LENGTH,
    TAG,
    AesGcm,
    ChaCha20Poly1305,
    PacketCipher,
)
from sftp_gateway.server.packets.outgoing import CAPACITY, HEADER, MAX_PADDING, OutgoingBuffer
from sftp_gateway.server.packets.transport import GatheringTransport

if TYPE_CHECKING:
    from asyncssh.channel import SSHChannel

    Channel = asyncssh.SSHServerChannel[bytes]

_DATA_HEADER: Final = Struct(">IBBII")  # HEADER bytes, as `outgoing` lays them out
_CHANNEL_HEADER: Final = Struct(">BBII")  # padding_length, type, recipient, length or bytes to add
_BLOCK: Final = 16  # of AES; chacha20-poly1305 asks for a multiple of 8
_MIN_PADDING: Final = 4

#: RFC 4253 §6: padding "SHOULD consist of random bytes". An AEAD cipher does not depend on it, so
#: all packets have the same.
_PADDING: Final = os.urandom(MAX_PADDING)

#: RFC 4253 §6.1: "All implementations MUST be able to process packets with an uncompressed payload
#: length of 32768 bytes or less and a total packet size of 35000 bytes or less". No client sends
#: more: our channels take 32 KiB of data in a packet.
MAX_PACKET: Final = 35_000

#: The messages of which a session is made. All others are rare.
_FREQUENT: Final = frozenset({MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST})

#: Bytes of buffered data that are sent between two checks of the time slice.
_SEND_PIECE: Final = 64 * 1024

#: Bytes that wait in a socket's buffer before its sessions pause.
SOCKET_BUFFER: Final = 512 * 1024

#: Encrypted packets on their way to the socket, which takes or copies them before the next. Twice
#: the capacity is enough even for the headers and tags of the smallest packets.
_seal_buffer = memoryview(bytearray(2 * CAPACITY))


class TurnTaker(Protocol):
    """A channel that waits for its connection's next time slice."""

    def take_turn(self) -> None:
        """Continue until the time slice is used up."""
        ...


class PacketConnection(asyncssh.SSHServerConnection):
    """A connection with our own packet layer."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHServerConnectionOptions,
        *,
        scheduler: Scheduler,
        own_packet_layer: bool,
    ) -> None:
        """Without `own_packet_layer`, asyncssh handles all packets."""
        super().__init__(loop, options)
        self._own_packet_layer = own_packet_layer
        self._last_received = 0.0
        # Data of one channel from several packets, delivered as one piece: many small requests that
        # arrive together are answered with full packets and one write.
        self._receiver: SSHChannel[bytes] | None = None
        self._received: list[bytes] = []
        self._received_length = 0
        self.time_slice = TimeSlice(scheduler, self._take_turn)
        self._waiting: dict[TurnTaker, None] = {}
        self._writing_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._gathering = GatheringTransport(cast(asyncio.Transport, transport))
        super().connection_made(self._gathering)

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        """Use the new keys, with our ciphers where there are any."""
        super().send_newkeys(k, h)
        if self._next_decompressor is not None:
            self._next_decompressor = _Inflater()
        if self._own_packet_layer:
            self._send_encryption = _reuse_cipher(self._send_encryption)
            self._next_recv_encryption = _reuse_cipher(self._next_recv_encryption)

    # Time slices

    def wait_turn(self, taker: TurnTaker) -> None:
        """Have `taker.take_turn` called in the next time slice, after those that wait already."""
        self._waiting[taker] = None
        self.time_slice.wait()

    def _take_turn(self) -> None:
        for _ in range(len(self._waiting)):
            if self.time_slice.used_up():
                break
            taker = next(iter(self._waiting))
            del self._waiting[taker]
            taker.take_turn()
        if self._waiting:
            self.time_slice.wait()
        if self._transport is not None:
            self._handle_input()

    def data_received(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        """The client sent bytes."""
        self._inpbuf += data
        self._reset_keepalive_timer()
        if not self.time_slice.waiting:
            self._handle_input()

    def _finish_recv_packet(
        self,
        pkttype: int,
        seq: int,
        _task: asyncio.Task[None] | None = None,
        is_async: bool = False,
    ) -> None:
        """Called by asyncssh after each packet.

        One that took a task ends the time slice, and one that is rare shortens it.
        """
        super()._finish_recv_packet(pkttype, seq)
        if is_async:
            self.time_slice.wait()
        elif pkttype not in _FREQUENT:
            self.time_slice.shorten()

    def _handle_input(self) -> None:
        """Handle buffered input until the time slice is used up."""
        time_slice = self.time_slice
        began = time_slice.begin()
        try:
            while self._inpbuf and self._recv_handler():
                if time_slice.used_up():
                    break
        except asyncssh.DisconnectError as error:
            self._send_disconnect(error.code, error.reason, error.lang)
            self._force_close(error)
        except Exception:  # ends this connection only
            self.internal_error()
        finally:
            if self._inpbuf and time_slice.used_up():
                time_slice.wait()
            if began:
                time_slice.end()

    @property
    def exchanging_keys(self) -> bool:
        """Whether the client has started a key exchange and has not sent NEWKEYS yet."""
        return self._kex is not None or self._next_recv_encryption is not None

    # Sending

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._writing_paused = False

    def outgoing_buffer(self, channel: Channel) -> OutgoingBuffer:
        """A buffer for the data to send on `channel`."""
        return OutgoingBuffer(channel._send_pktsize)

    def send_data(self, channel: Channel, outgoing: OutgoingBuffer) -> bool:
        """Send and clear `outgoing`; return whether the network has taken all of it."""
        length = outgoing.length
        # Data that asyncssh buffers for the client's window has to go first.
        cipher = None if channel._send_buf else self._send_cipher(channel, outgoing)
        sealed = min(length, channel._send_window) if cipher else 0
        # Copied first, because padding overwrites what follows the last byte that is sealed.
        rest = outgoing.tail(sealed) if sealed < length else None
        taken = True
        if cipher and sealed:
            taken = self._seal(cipher, channel, outgoing, sealed)
        if rest:
            channel.write(rest)
            taken = False
        outgoing.clear()
        return taken

    def send_buffered(self, channel: Channel) -> bool:
        """Send what asyncssh buffers for a channel, as far as the client's window allows.

        Returns whether the channel has to continue in the next time slice.
        """
        buffered = channel._send_buf
        outgoing = OutgoingBuffer(channel._send_pktsize)
        while buffered and channel._send_window and self._kex_complete and not self._writing_paused:
            if self.time_slice.used_up() or self._gathering.get_write_buffer_size() > SOCKET_BUFFER:
                return True
            data, datatype = buffered[0]
            cipher = None if datatype else self._send_cipher(channel, outgoing)
            most = _SEND_PIECE if cipher else channel._send_pktsize
            count = min(len(data), channel._send_window, most)
            piece = bytes(data[:count])
            channel._send_buf_len -= count
            del data[:count]
            if not data:
                del buffered[0]
            if cipher:
                outgoing.put(piece)
                self._seal(cipher, channel, outgoing, count)
                outgoing.clear()
                continue
            channel._send_window -= count
            if datatype is None:
                channel.send_packet(MSG_CHANNEL_DATA, String(piece))
            else:
                channel.send_packet(MSG_CHANNEL_EXTENDED_DATA, UInt32(datatype), String(piece))
        return False

    def _send_cipher(
        self, channel: SSHChannel[bytes], outgoing: OutgoingBuffer
    ) -> PacketCipher | None:
        """The cipher to encrypt with; None if asyncssh has to send."""
        cipher = self._send_encryption
        if (
            isinstance(cipher, PacketCipher)
            and self._compressor is None
            and self._kex_complete
            and self._rekey_bytes_sent < self._rekey_bytes
            and not (self._rekey_seconds and time.monotonic() >= self._rekey_time)
            and channel._send_state == "open"
            and channel._send_pktsize >= outgoing.payload
        ):
            return cipher
        return None

    def _seal(
        self,
        cipher: PacketCipher,
        channel: SSHChannel[bytes],
        outgoing: OutgoingBuffer,
        length: int,
    ) -> bool:
        """Encrypt and send `length` bytes; return whether the network has taken them."""
        memory, payload = outgoing.memory, outgoing.payload
        seq, at, end = self._send_seq, 0, 0
        for start in range(0, length, payload):
            size = min(payload, length - start)
            # RFC 4253 §6: the length is a multiple of the block size; RFC 5647 §7.2 and
            # chacha20-poly1305 leave out `packet_length`.
            padding = -(HEADER - LENGTH + size) % _BLOCK
            if padding < _MIN_PADDING:
                padding += _BLOCK
            filled = at + HEADER + size
            stop = filled + padding
            memory[filled:stop] = _PADDING[:padding]
            _DATA_HEADER.pack_into(
                memory,
                at,
                stop - at - LENGTH,
                padding,
                MSG_CHANNEL_DATA,
                channel._send_chan,
                size,
            )
            begin, end = end, end + stop - at + TAG
            cipher.seal(seq, memory[at:stop], _seal_buffer[begin:end])
            seq = (seq + 1) & 0xFFFFFFFF
            at += outgoing.stride
        self._send_seq = seq
        self._rekey_bytes_sent += end
        channel._send_window -= length
        return self._gathering.write_now(_seal_buffer[:end])

    # Receiving

    def _reset_keepalive_timer(self) -> None:
        """Note when the client last sent something: a new timer each time would be expensive."""
        self._last_received = self._loop.time()
        if not self._auth_complete:
            self._gathering.acknowledge()

    def _keepalive_timer_callback(self) -> None:
        """Send a keepalive request if the client was silent for the whole interval."""
        rest = self._last_received + self._keepalive_interval - self._loop.time()
        if rest > 0:
            self._keepalive_timer = self._loop.call_later(rest, self._keepalive_timer_callback)
        else:
            super()._keepalive_timer_callback()

    def _recv_pkthdr(self) -> bool:
        """Called by asyncssh at the beginning of a packet. Handle those that we can first."""
        if (
            isinstance(self._recv_encryption, PacketCipher)
            and self._auth_complete
            and self._decompressor is None
            and self._kex is None
            and self._next_recv_encryption is None
            and not self._open_packets(self._recv_encryption)
        ):
            return False
        return super()._recv_pkthdr()

    def _open_packets(self, cipher: PacketCipher) -> bool:
        """Decrypt packets until the input ends (False) or asyncssh has to handle one (True)."""
        data = self._inpbuf
        sealed, start, end = memoryview(data), 0, len(data)
        foreign = False
        used_up = self.time_slice.used_up
        while end - start >= LENGTH and not (start and used_up()):
            seq = self._recv_seq
            length = cipher.length(seq, data[start : start + LENGTH])
            stop = start + LENGTH + length + TAG
            if stop > end:
                foreign = length > self._max_recv_pktlen
                break
            packet = cipher.open(seq, sealed[start:stop])
            if packet is None:
                foreign = True
                break
            if not self._accept(packet):
                cipher.unread()
                foreign = True
                break
            self._recv_seq = (seq + 1) & 0xFFFFFFFF
            start = stop
        self._inpbuf = data[start:]
        self._deliver()
        # Not if a packet has closed the connection.
        return foreign and self._transport is not None

    def _accept(self, packet: bytes) -> bool:
        """Handle a packet, given without `packet_length`, if it is one of the two kinds."""
        if len(packet) < _CHANNEL_HEADER.size:
            return False
        padding, kind, recipient, number = _CHANNEL_HEADER.unpack_from(packet)
        channel = self._channels.get(recipient)
        # asyncssh rejects a packet without padding (RFC 4253 §6).
        if channel is None or channel._recv_state != "open" or not padding:
            return False
        end = len(packet) - padding
        if kind == MSG_CHANNEL_DATA:
            if _CHANNEL_HEADER.size + number != end:
                return False
            if channel is not self._receiver:
                if self._receiver is not None:
                    self._deliver()
                self._receiver = channel
            if self._received_length + number > channel._recv_window:
                return False
            self._received_length += number
            self._received.append(packet[_CHANNEL_HEADER.size : end])
            return True
        if kind == MSG_CHANNEL_WINDOW_ADJUST and end == _CHANNEL_HEADER.size:
            channel._send_window += number
            if channel._send_buf:
                channel._flush_send_buf()
            return True
        return False

    def _deliver(self) -> None:
        """Pass what was received to its channel."""
        channel, pieces = self._receiver, self._received
        if channel is None:
            return
        self._receiver, self._received, self._received_length = None, [], 0
        if pieces and channel._recv_state == "open":
            channel._accept_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))


class _Inflater(Decompressor):
    """zlib with the bound of a packet without it: asyncssh's own inflates 32 KiB to 32 MiB."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()

    def decompress(self, data: bytes) -> bytes | None:
        """The inflated packet; None if it is too long or malformed."""
        try:
            inflated = self._stream.decompress(data, MAX_PACKET)
        except zlib.error:
            return None
        return inflated if len(inflated) < MAX_PACKET else None


def _reuse_cipher(encryption: Encryption | None) -> Any:
    """Our cipher in the state of asyncssh's; asyncssh's own for one that we do not have."""
    match encryption:
        case GCMEncryption():
            return AesGcm(encryption._cipher._key, encryption._cipher._iv)
        case ChachaEncryption():
            return ChaCha20Poly1305(encryption._cipher._key + encryption._cipher._adkey)
    return encryption
