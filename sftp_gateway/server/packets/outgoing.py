"""A buffer in which a session lays out its responses as SSH packets.

File contents are read straight to their place in a packet, so the kernel's copy is the only one
between page cache and cipher. Every packet but the last is full, whatever the responses' lengths.

    | packet_length | padding_length | CHANNEL_DATA | recipient | length | payload | padding  |
    | 4 bytes       | 1              | 1            | 4         | 4      |         | 4 to 19  |

Headers and padding are written when the packet is encrypted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Bytes of a packet before and after its payload (RFC 4253 §6, RFC 4254 §5.2).
HEADER: Final = 14
MAX_PADDING: Final = 19

#: Bytes of payload in a full packet, if the client accepts as many. Stock clients do.
MAX_PAYLOAD: Final = 32 * 1024

#: Clients that accept less are left to asyncssh: packets would be mostly headers.
MIN_PAYLOAD: Final = 1024

#: Bytes of payload that the buffer holds.
CAPACITY: Final = 512 * 1024

_SIZE: Final = CAPACITY + (CAPACITY // MIN_PAYLOAD + 1) * (HEADER + MAX_PADDING)

#: Memory that no buffer uses now. Sessions take turns, so one piece, still in the processor's
#: cache, serves nearly all.
_spare: list[memoryview] = []
_MAX_SPARE: Final = 2


class OutgoingBuffer:
    """Data to be sent on one channel."""

    __slots__ = ("_memory", "length", "payload", "stride")

    def __init__(self, payload: int) -> None:
        """`payload` is the client's maximum packet size (RFC 4254 §5.1)."""
        self.payload = min(payload, MAX_PAYLOAD) if payload >= MIN_PAYLOAD else MAX_PAYLOAD
        #: Bytes from one packet to the next.
        self.stride = HEADER + self.payload + MAX_PADDING
        #: Bytes of channel data so far.
        self.length = 0
        self._memory: memoryview | None = None

    @property
    def memory(self) -> memoryview:
        """The packets; this buffer's own memory until `clear`."""
        if self._memory is None:
            self._memory = _spare.pop() if _spare else memoryview(bytearray(_SIZE))
        return self._memory

    def put(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        self.write(self.length, data)
        self.length += len(data)

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Write `data` at byte `start` of the channel data, without changing `length`."""
        index, offset = divmod(start, self.payload)
        if offset + len(data) <= self.payload and start + len(data) <= CAPACITY:
            at = index * self.stride + HEADER + offset
            memory = self._memory or self.memory
            memory[at : at + len(data)] = data
            return
        done = 0
        for view in self.iovecs(start, len(data)):
            view[:] = data[done : done + len(view)]
            done += len(view)

    def iovecs(self, start: int, length: int) -> Sequence[memoryview]:
        """The memory of `length` bytes from byte `start` on, one view for each packet.

        The caller adds what it has written to the buffer's `length`. Raises ValueError beyond
        CAPACITY.
        """
        if start + length > CAPACITY:
            raise ValueError(f"{start + length} bytes exceed the capacity")
        memory = self._memory or self.memory
        index, offset = divmod(start, self.payload)
        at = index * self.stride + HEADER + offset
        room = self.payload - offset
        if length <= room:
            return (memory[at : at + length],)
        pieces = [memory[at : at + room]]
        while length > room:
            length -= room
            room = self.payload
            index += 1
            at = index * self.stride + HEADER
            pieces.append(memory[at : at + min(length, room)])
        return pieces

    def tail(self, start: int) -> bytes:
        """The bytes from byte `start` on, in one piece."""
        return b"".join(self.iovecs(start, self.length - start))

    def clear(self) -> None:
        """Empty the buffer."""
        self.length = 0
        if self._memory is not None:
            if len(_spare) < _MAX_SPARE:
                _spare.append(self._memory)
            self._memory = None
