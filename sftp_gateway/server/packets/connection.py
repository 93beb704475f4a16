"""An SSH connection that seals what a session sends, and opens what it gets, by itself.

asyncssh handles everything until a session is under way, and everything else after that: key
exchanges, logins, requests, closing. Only two kinds of packet take the short way here, which are
nearly all of them: CHANNEL_DATA in both directions and the client's CHANNEL_WINDOW_ADJUST. What
is not plain sailing (a cipher that `ciphers` does not have, compression, a key exchange under way
or due, a full window, a closing channel, a malformed packet) is left to asyncssh, from one packet
to the next: both ways use the same cipher objects and sequence numbers.

Whatever a connection does on the event loop, it does within a time slice (scheduler.py): packets
are opened, and what waits for a client's window is sent, until the slice is used up, and the rest
when it is this connection's turn again.

This is the one module that leans on asyncssh's inside; `compatibility` lists what it leans on.
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
_BLOCK: Final = 16  # of AES; a multiple of the 8 that chacha20-poly1305 asks for
_LEAST_PADDING: Final = 4

#: RFC 4253 §6: padding "SHOULD consist of random bytes". Under an AEAD cipher nothing hangs on
#: that, so the same ones do for all packets.
_PADDING: Final = os.urandom(MAX_PADDING)

#: Bytes that a compressed packet may become: as many as the longest that OpenSSH takes.
_MAX_INFLATED: Final = 256 * 1024

#: Bytes of what waits for a client's window that are sent before the time is looked at again.
_SEND_PIECE: Final = 64 * 1024

#: Bytes that wait in a socket for the network before the sessions make no more.
SOCKET_BUFFER: Final = 512 * 1024

#: What is sealed waits here for the socket to take it, which it does before anything else is
#: sealed. Twice the capacity is more than headers and tags of the smallest packets need.
_sealed = memoryview(bytearray(2 * CAPACITY))


class Turn(Protocol):
    """What is called when it is its connection's turn again."""

    def take_turn(self) -> None:
        """Continue, until the time slice is used up."""
        ...


class PacketConnection(asyncssh.SSHServerConnection):
    """A connection whose record layer is ours."""

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
        self._heard = 0.0
        self._batch = _Batch()
        self.time_slice = TimeSlice(scheduler, self._take_turn)
        self._turns: dict[Turn, None] = {}
        self._writing_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._gathering = GatheringTransport(cast(asyncio.Transport, transport))
        super().connection_made(self._gathering)

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        """Take new keys into use; with ciphers that last, where there are such."""
        super().send_newkeys(k, h)
        if self._next_decompressor is not None:
            self._next_decompressor = _Inflater()
        if self._own_packet_layer:
            self._send_encryption = _lasting(self._send_encryption)
            self._next_recv_encryption = _lasting(self._next_recv_encryption)

    # Turns

    def wait_turn(self, turn: Turn) -> None:
        """Have `turn` called in the next slice, behind those that wait for it already."""
        self._turns[turn] = None
        self.time_slice.wait()

    def _take_turn(self) -> None:
        for _ in range(len(self._turns)):
            if self.time_slice.used_up():
                break
            turn = next(iter(self._turns))
            del self._turns[turn]
            turn.take_turn()
        if self._turns:
            self.time_slice.wait()
        if self._transport is not None:
            self._read_on()

    def data_received(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        """Bytes of the client."""
        self._inpbuf += data
        self._reset_keepalive_timer()
        if not self.time_slice.waiting:
            self._read_on()

    def _finish_recv_packet(
        self,
        pkttype: int,
        seq: int,
        _task: asyncio.Task[None] | None = None,
        is_async: bool = False,
    ) -> None:
        """Called by asyncssh behind each packet. Behind one that took a task, others go first."""
        super()._finish_recv_packet(pkttype, seq)
        if is_async:
            self.time_slice.wait()

    def _read_on(self) -> None:
        """Handle what was read, until the time slice is used up."""
        time_slice = self.time_slice
        began = time_slice.begin()
        try:
            while self._inpbuf and self._recv_handler():
                if time_slice.used_up():
                    break
        except asyncssh.DisconnectError as error:
            self._send_disconnect(error.code, error.reason, error.lang)
            self._force_close(error)
        except Exception:  # whatever it is, it is this connection's end only
            self.internal_error()
        finally:
            if self._inpbuf and time_slice.used_up():
                time_slice.wait()
            if began:
                time_slice.end()

    @property
    def exchanging_keys(self) -> bool:
        """Whether the client has begun a key exchange and not sent its NEWKEYS yet."""
        return self._kex is not None or self._next_recv_encryption is not None

    # Sending

    def pause_writing(self) -> None:
        """The socket has enough to send."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._writing_paused = False

    def outgoing_of(self, channel: Channel) -> OutgoingBuffer:
        """Where to lay out what is sent on `channel`."""
        return OutgoingBuffer(channel._send_pktsize)

    def send_data(self, channel: Channel, outgoing: OutgoingBuffer) -> bool:
        """Send what is laid out in `outgoing` on `channel`, and clear it.

        Returns whether the network has taken all of it, so that nothing of the channel waits.
        """
        length = outgoing.length
        # What asyncssh holds back for the client's window has to go out first.
        cipher = None if channel._send_buf else self._sealing(channel, outgoing)
        sealed = min(length, channel._send_window) if cipher else 0
        # Taken first: padding is written over what follows the last byte that is sealed.
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
        """Send what asyncssh holds back of a channel, as far as the client's window has room.

        Returns whether the channel has to continue when it is its turn.
        """
        held = channel._send_buf
        outgoing = OutgoingBuffer(channel._send_pktsize)
        while held and channel._send_window and self._kex_complete and not self._writing_paused:
            if self.time_slice.used_up() or self._gathering.get_write_buffer_size() > SOCKET_BUFFER:
                return True
            data, datatype = held[0]
            cipher = None if datatype else self._sealing(channel, outgoing)
            most = _SEND_PIECE if cipher else channel._send_pktsize
            count = min(len(data), channel._send_window, most)
            piece = bytes(data[:count])
            channel._send_buf_len -= count
            del data[:count]
            if not data:
                del held[0]
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

    def _sealing(self, channel: SSHChannel[bytes], outgoing: OutgoingBuffer) -> PacketCipher | None:
        """The cipher to seal with; None where asyncssh has to send."""
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
        """Seal and send the first `length` bytes; return whether the network has taken them."""
        memory, payload = outgoing.memory, outgoing.payload
        seq, at, end = self._send_seq, 0, 0
        for start in range(0, length, payload):
            size = min(payload, length - start)
            # RFC 4253 §6: padding makes the packet a multiple of the block, without its length
            # field where that is not encrypted with the rest.
            padding = -(HEADER - LENGTH + size) % _BLOCK
            if padding < _LEAST_PADDING:
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
            cipher.seal(seq, memory[at:stop], _sealed[begin:end])
            seq = (seq + 1) & 0xFFFFFFFF
            at += outgoing.stride
        self._send_seq = seq
        self._rekey_bytes_sent += end
        channel._send_window -= length
        return self._gathering.write_now(_sealed[:end])

    # Receiving

    def _reset_keepalive_timer(self) -> None:
        """Something came; noted rather than acted on, as a new timer each time would be dear."""
        self._heard = self._loop.time()
        if not self._auth_complete:
            self._gathering.acknowledge()

    def _keepalive_timer_callback(self) -> None:
        """Ask the client whether it is there, if it was silent for the whole interval."""
        rest = self._heard + self._keepalive_interval - self._loop.time()
        if rest > 0:
            self._keepalive_timer = self._loop.call_later(rest, self._keepalive_timer_callback)
        else:
            super()._keepalive_timer_callback()

    def _recv_pkthdr(self) -> bool:
        """Asked by asyncssh to go on at the beginning of a packet, which may be ours."""
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
        """Open packets until the input ends (False), or one comes that is asyncssh's (True)."""
        data = self._inpbuf
        sealed, start, end = memoryview(data), 0, len(data)
        foreign = False
        batch, used_up = self._batch, self.time_slice.used_up
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
            if not self._take(packet, batch):
                cipher.put_back()
                foreign = True
                break
            self._recv_seq = (seq + 1) & 0xFFFFFFFF
            start = stop
        self._inpbuf = data[start:]
        batch.deliver()
        # Closed over what came, or waiting for a request: then asyncssh is not to go on.
        return foreign and self._transport is not None

    def _take(self, packet: bytes, batch: _Batch) -> bool:
        """Take a packet, from its padding_length on, if it is one that goes the short way."""
        if len(packet) < _CHANNEL_HEADER.size:
            return False
        padding, kind, recipient, number = _CHANNEL_HEADER.unpack_from(packet)
        channel = self._channels.get(recipient)
        # Without any padding it is no packet (RFC 4253 §6), and asyncssh says so.
        if channel is None or channel._recv_state != "open" or not padding:
            return False
        end = len(packet) - padding
        if kind == MSG_CHANNEL_DATA:
            if _CHANNEL_HEADER.size + number != end:
                return False
            return batch.add(channel, packet[_CHANNEL_HEADER.size : end])
        if kind == MSG_CHANNEL_WINDOW_ADJUST and end == _CHANNEL_HEADER.size:
            channel._send_window += number
            if channel._send_buf:
                channel._flush_send_buf()
            return True
        return False


class _Batch:
    """Data of one channel from several packets that came together, to be delivered as one.

    A client that asks for much sends many small packets. Served together, they are answered with
    full packets and one write.
    """

    __slots__ = ("_channel", "_length", "_pieces")

    def __init__(self) -> None:
        self._channel: SSHChannel[bytes] | None = None
        self._length = 0
        self._pieces: list[bytes] = []

    def add(self, channel: SSHChannel[bytes], data: bytes) -> bool:
        """Take `data`; False where the channel's window has no room for it."""
        if channel is not self._channel:
            self.deliver()
            self._channel = channel
        if self._length + len(data) > channel._recv_window:
            return False
        self._length += len(data)
        self._pieces.append(data)
        return True

    def deliver(self) -> None:
        """Give the channel what there is for it."""
        channel, pieces = self._channel, self._pieces
        if channel is None:
            return
        self._channel, self._pieces, self._length = None, [], 0
        if pieces and channel._recv_state == "open":
            channel._accept_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))


class _Inflater(Decompressor):
    """zlib, as asyncssh's own, but of 32 KiB it would make 32 MiB if a client likes."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()

    def decompress(self, data: bytes) -> bytes | None:
        """The packet, or None where it is too long or no packet of this stream."""
        try:
            inflated = self._stream.decompress(data, _MAX_INFLATED)
        except zlib.error:
            return None
        return inflated if len(inflated) < _MAX_INFLATED else None


def _lasting(encryption: Encryption | None) -> Any:
    """The same cipher in the same state, set up once for all packets, where we have it."""
    match encryption:
        case GCMEncryption():
            return AesGcm(encryption._cipher._key, encryption._cipher._iv)
        case ChachaEncryption():
            return ChaCha20Poly1305(encryption._cipher._key + encryption._cipher._adkey)
    return encryption
