"""Cuts a stream of bytes into SFTP packets.

draft-ietf-secsh-filexfer-02 §3: "All packets transmitted over the secure connection are of the
following format: uint32 length, byte type, byte[length - 1] data payload".
"""

from __future__ import annotations

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol.constants import MAX_PACKET_LENGTH
from sftp_gateway.protocol.wire import UINT32


class FrameReader:
    """Collects received bytes and gives whole packets, without their length field.

    Holds at most one unfinished packet of MAX_PACKET_LENGTH bytes plus one piece of input.
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take `data`; return the packets that are now whole, in order.

        Raises ProtocolError for a length of 0 or above MAX_PACKET_LENGTH, as soon as the length
        is known: nothing is collected for a packet that will not be accepted.
        """
        buffer = self._buffer + data if self._buffer else data
        frames = []
        start, available = 0, len(buffer)
        while available - start >= UINT32.size:
            (length,) = UINT32.unpack_from(buffer, start)
            if not 1 <= length <= MAX_PACKET_LENGTH:
                raise ProtocolError(f"packet length {length} is not 1 to {MAX_PACKET_LENGTH}")
            stop = start + UINT32.size + length
            if stop > available:
                break
            frames.append(buffer[start + UINT32.size : stop])
            start = stop
        self._buffer = buffer[start:]
        return frames
