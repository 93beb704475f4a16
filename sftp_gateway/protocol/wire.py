"""RFC 4251 §5 data types: reading them from a packet, and packing them."""

from __future__ import annotations

from struct import Struct
from typing import Final

from sftp_gateway.errors import ProtocolError

UINT32: Final = Struct(">I")
UINT64: Final = Struct(">Q")


class Cursor:
    """Reads RFC 4251 data types from `data`, from `offset` on.

    Raises ProtocolError where the bytes end before the field does; a length is compared with
    what is there before anything is copied.
    """

    __slots__ = ("_data", "_end", "_offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self._data = data
        self._offset = offset
        self._end = len(data)

    def byte(self) -> int:
        """One byte, 0 to 255."""
        return self._take(1)[0]

    def uint32(self) -> int:
        """Four bytes, big-endian."""
        value: int = UINT32.unpack(self._take(4))[0]
        return value

    def uint64(self) -> int:
        """Eight bytes, big-endian."""
        value: int = UINT64.unpack(self._take(8))[0]
        return value

    def string(self) -> bytes:
        """A uint32 length and that many bytes."""
        return self._take(self.uint32())

    def _take(self, length: int) -> bytes:
        start = self._offset
        stop = start + length
        if stop > self._end:
            raise ProtocolError(f"packet ends {stop - self._end} bytes short")
        self._offset = stop
        return self._data[start:stop]


def string(value: bytes) -> bytes:
    """`value` as a string: its length as uint32, then its bytes."""
    return UINT32.pack(len(value)) + value
