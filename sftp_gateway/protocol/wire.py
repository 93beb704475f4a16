"""RFC 4251 §5 data types: reading them from a packet, and packing them."""

from __future__ import annotations

from struct import Struct, error
from typing import Final

from sftp_gateway.errors import ProtocolError

UINT32: Final = Struct(">I")
UINT64: Final = Struct(">Q")
_BYTE: Final = Struct("B")


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
        return self.fields(_BYTE)[0]

    def uint32(self) -> int:
        """Four bytes, big-endian."""
        return self.fields(UINT32)[0]

    def uint64(self) -> int:
        """Eight bytes, big-endian."""
        return self.fields(UINT64)[0]

    def string(self) -> bytes:
        """A uint32 length and that many bytes."""
        start = self._offset + UINT32.size
        if start > self._end:
            raise self._short(start)
        (length,) = UINT32.unpack_from(self._data, self._offset)
        stop = start + length
        if stop > self._end:
            raise self._short(stop)
        self._offset = stop
        return self._data[start:stop]

    def fields(self, form: Struct) -> tuple[int, ...]:
        """Several numbers at once, as `form` has them."""
        start = self._offset
        stop = start + form.size
        try:
            values: tuple[int, ...] = form.unpack_from(self._data, start)
        except error:
            raise self._short(stop) from None
        self._offset = stop
        return values

    def _short(self, stop: int) -> ProtocolError:
        return ProtocolError(f"packet ends {stop - self._end} bytes short")


def string(value: bytes) -> bytes:
    """`value` as a string: its length as uint32, then its bytes."""
    return UINT32.pack(len(value)) + value
