"""What a session sends in one turn, laid out as SSH packets while it is made.

The bytes of a file are read to the very place in a packet from which they are sealed: between
the page cache and the cipher there is one copy, the kernel's. Every packet but the last is full,
however the responses fall.

    | packet_length | padding_length | CHANNEL_DATA | recipient | length | payload | padding  |
    | 4 bytes       | 1              | 1            | 4         | 4      |         | 4 to 19  |

Headers and padding are written when the packet is sealed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Bytes of a packet before and behind its payload (RFC 4253 §6, RFC 4254 §5.2).
HEADER: Final = 14
MAX_PADDING: Final = 19

#: Bytes of payload in a full packet, where the client takes that much; stock clients do.
MAX_PAYLOAD: Final = 32 * 1024

#: With less, a packet is more header than payload: such clients are left to asyncssh.
MIN_PAYLOAD: Final = 1024

#: Bytes of payload that may be laid out before they are cleared.
CAPACITY: Final = 512 * 1024

_SIZE: Final = CAPACITY + (CAPACITY // MIN_PAYLOAD + 1) * (HEADER + MAX_PADDING)

#: Memory that nobody uses now. A turn is short and sessions have theirs one after another, so
#: that one piece does for all of them and is warm.
_spare: list[memoryview] = []
_MOST_SPARE: Final = 2


class OutgoingBuffer:
    """Bytes of one channel, in order, with room for more."""

    __slots__ = ("_memory", "length", "payload", "stride")

    def __init__(self, payload: int) -> None:
        """`payload`: bytes of channel data that the client takes in a packet."""
        self.payload = min(payload, MAX_PAYLOAD) if payload >= MIN_PAYLOAD else MAX_PAYLOAD
        #: Bytes from one packet to the next.
        self.stride = HEADER + self.payload + MAX_PADDING
        #: Bytes of channel data so far.
        self.length = 0
        self._memory: memoryview | None = None

    @property
    def memory(self) -> memoryview:
        """The packets. It is this object's alone until `clear`."""
        if self._memory is None:
            self._memory = _spare.pop() if _spare else memoryview(bytearray(_SIZE))
        return self._memory

    def put(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        self.write(self.length, data)
        self.length += len(data)

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Put `data` where it begins with byte `start` of the channel data."""
        index, offset = divmod(start, self.payload)
        if offset + len(data) <= self.payload and start + len(data) <= CAPACITY:
            at = index * self.stride + HEADER + offset
            self.memory[at : at + len(data)] = data
            return
        done = 0
        for place in self.iovecs(start, len(data)):
            place[:] = data[done : done + len(place)]
            done += len(place)

    def iovecs(self, start: int, length: int) -> Sequence[memoryview]:
        """Where the `length` bytes from byte `start` on belong: one piece for each packet.

        Nothing counts until `length` of the object says so. Raises ValueError over CAPACITY.
        """
        if start + length > CAPACITY:
            raise ValueError(f"{start + length} bytes are more than are laid out at once")
        memory = self.memory
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
        """Begin anew; what was laid out is lost."""
        self.length = 0
        if self._memory is not None:
            if len(_spare) < _MOST_SPARE:
                _spare.append(self._memory)
            self._memory = None
