"""Decodes and encodes the data types of RFC 4251 §5."""

from __future__ import annotations

from struct import Struct, error
from typing import Final

from sftp_gateway.errors import ProtocolError

UINT32: Final = Struct(">I")
UINT64: Final = Struct(">Q")
_BYTE: Final = Struct("B")


class Cursor:
    """Reads RFC 4251 data types from `data`, starting at `offset`.

    Raises ProtocolError if a field exceeds the data. Lengths are checked before anything is copied.
    """

    __slots__ = ("_data", "_end", "_offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self._data = data
        self._offset = offset
        self._end = len(data)

    def byte(self) -> int:
        """One byte, 0 to 255."""
        return self.fields(_BYTE)[0]

    def uint32(self) -> int:
        """Four bytes, big-endian."""
        return self.fields(UINT32)[0]

    def uint64(self) -> int:
        """Eight bytes, big-endian."""
        return self.fields(UINT64)[0]

    def string(self) -> bytes:
        """A uint32 length and that many bytes."""
        value = string_at(self._data, self._offset)
        self._offset += UINT32.size + len(value)
        return value

    def fields(self, form: Struct) -> tuple[int, ...]:
        """Several integers at once, in the format of `form`."""
        start = self._offset
        stop = start + form.size
        try:
            values: tuple[int, ...] = form.unpack_from(self._data, start)
        except error:
            raise _short(stop - self._end) from None
        self._offset = stop
        return values


def string_at(data: bytes, offset: int) -> bytes:
    """The string that begins at `offset`; raises ProtocolError if it exceeds `data`."""
    start, end = offset + UINT32.size, len(data)
    if start > end:
        raise _short(start - end)
    (length,) = UINT32.unpack_from(data, offset)
    stop = start + length
    if stop > end:
        raise _short(stop - end)
    return data[start:stop]


def _short(count: int) -> ProtocolError:
    return ProtocolError(f"packet is {count} bytes too short")


def string(value: bytes) -> bytes:
    """Encode a string: its length as uint32, then its bytes."""
    return UINT32.pack(len(value)) + value
