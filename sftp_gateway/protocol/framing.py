"""Splits a byte stream into SFTP packets.

draft-ietf-secsh-filexfer-02 §3: "All packets transmitted over the secure connection are of the
following format: uint32 length, byte type, byte[length - 1] data payload".
"""

from __future__ import annotations

from typing import Final

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol.constants import MAX_PACKET_LENGTH
from sftp_gateway.protocol.wire import UINT32

#: Maximum number of packets per call; one chunk of input may contain 100,000, which take 30 ms.
MAX_FRAMES: Final = 256


class FrameReader:
    """Buffers received bytes and returns complete packets, without their length field.

    Holds at most one incomplete packet of MAX_PACKET_LENGTH bytes and the input not split yet.
    """

    __slots__ = ("_buffer", "_start", "more")

    def __init__(self) -> None:
        self._buffer = b""
        self._start = 0
        #: Whether complete packets remain after `feed`.
        self.more = False

    def feed(self, data: bytes = b"") -> list[bytes]:
        """Add `data`; return the packets that are now complete, at most MAX_FRAMES.

        Raises ProtocolError for a length of 0 or above MAX_PACKET_LENGTH as soon as the length is
        known, so nothing is buffered for a packet that is too long.
        """
        buffer, start = self._buffer, self._start
        if data:
            buffer, start = buffer[start:] + data if buffer else data, 0
        frames: list[bytes] = []
        available = len(buffer)
        self.more = False
        while available - start >= UINT32.size:
            (length,) = UINT32.unpack_from(buffer, start)
            if not 1 <= length <= MAX_PACKET_LENGTH:
                raise ProtocolError(f"packet length {length} is not 1 to {MAX_PACKET_LENGTH}")
            stop = start + UINT32.size + length
            if stop > available:
                break
            if len(frames) == MAX_FRAMES:
                self._buffer, self._start, self.more = buffer, start, True
                return frames
            frames.append(buffer[start + UINT32.size : stop])
            start = stop
        self._buffer, self._start = buffer[start:], 0
        return frames
