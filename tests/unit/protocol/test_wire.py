"""The data types of RFC 4251, section 5, with that document's own examples."""

from __future__ import annotations

import pytest

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol.wire import Cursor, string

READERS = {"byte": (Cursor.byte, 1), "uint32": (Cursor.uint32, 4), "uint64": (Cursor.uint64, 8)}
every_number = pytest.mark.parametrize(("read", "size"), READERS.values(), ids=READERS.keys())


def test_a_uint32_is_four_bytes_in_network_order():
    assert Cursor(bytes.fromhex("29b7f4aa")).uint32() == 699921578


def test_a_string_is_a_length_and_its_bytes():
    assert string(b"testing") == bytes.fromhex("00000007 74657374696e67")
    assert Cursor(bytes.fromhex("00000007 74657374696e67")).string() == b"testing"


def test_a_string_may_be_empty_or_hold_any_byte():
    assert Cursor(string(b"")).string() == b""
    assert Cursor(string(bytes(range(256)))).string() == bytes(range(256))


@every_number
def test_numbers_are_unsigned(read, size):
    assert read(Cursor(b"\x00" * size)) == 0
    assert read(Cursor(b"\xff" * size)) == 2 ** (8 * size) - 1


def test_fields_are_read_in_sequence():
    cursor = Cursor(bytes.fromhex("07 00000102 0000000000000003 00000001 61 08"))
    assert cursor.byte() == 7
    assert cursor.uint32() == 0x102
    assert cursor.uint64() == 3
    assert cursor.string() == b"a"
    assert cursor.byte() == 8


def test_reading_starts_at_the_offset():
    assert Cursor(b"\xff\x00\x00\x00\x05", 1).uint32() == 5


@every_number
def test_a_truncated_number_is_a_protocol_error(read, size):
    for length in range(size):
        with pytest.raises(ProtocolError, match=f"packet is {size - length} bytes too short"):
            read(Cursor(bytes(length)))


@pytest.mark.parametrize("cut", ["", "000000", "00000001", "00000003 6162", "ffffffff 61"])
def test_a_truncated_string_is_a_protocol_error(cut):
    with pytest.raises(ProtocolError, match="short"):
        Cursor(bytes.fromhex(cut)).string()


def test_a_failed_read_consumes_nothing():
    cursor = Cursor(b"\x01\x02")
    with pytest.raises(ProtocolError):
        cursor.uint32()
    assert cursor.byte() == 1
