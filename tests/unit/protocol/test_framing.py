"""Splitting the stream into packets: independent of chunking, with bounded memory."""

from __future__ import annotations

from itertools import chain

import pytest

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol.constants import MAX_PACKET_LENGTH
from sftp_gateway.protocol.framing import MAX_FRAMES, FrameReader

STREAM = bytes.fromhex(
    "00000005 01 00000003"  # INIT
    "00000001 ff"  # the shortest packet: only a type
    "0000000a 07 00000001 00000001 2f"  # LSTAT of /
)
FRAMES = [
    bytes.fromhex("01 00000003"),
    bytes.fromhex("ff"),
    bytes.fromhex("07 00000001 00000001 2f"),
]


def test_a_chunk_may_hold_many_packets():
    assert FrameReader().feed(STREAM) == FRAMES


def test_packets_may_arrive_byte_by_byte():
    reader = FrameReader()
    assert list(chain.from_iterable(reader.feed(bytes([byte])) for byte in STREAM)) == FRAMES


def test_the_stream_may_be_split_anywhere():
    for cut in range(len(STREAM) + 1):
        reader = FrameReader()
        assert reader.feed(STREAM[:cut]) + reader.feed(STREAM[cut:]) == FRAMES, cut


def test_a_packet_is_returned_with_its_last_byte():
    reader = FrameReader()
    assert reader.feed(STREAM[:8]) == []
    assert reader.feed(STREAM[8:9]) == FRAMES[:1]


def test_the_start_of_the_next_packet_is_kept():
    reader = FrameReader()
    assert reader.feed(STREAM + STREAM[:6]) == FRAMES
    assert reader.feed(STREAM[6:]) == FRAMES


def test_an_empty_chunk_is_ignored():
    reader = FrameReader()
    assert reader.feed(b"") == []
    assert reader.feed(STREAM[:7]) == []
    assert reader.feed(b"") == []
    assert reader.feed(STREAM[7:]) == FRAMES


def test_a_packet_of_the_maximum_length_is_accepted():
    packet = bytes.fromhex("00040000") + b"\x06" * MAX_PACKET_LENGTH
    assert FrameReader().feed(packet + STREAM) == [packet[4:], *FRAMES]


@pytest.mark.parametrize("length", ["00000000", "00040001", "7fffffff", "80000000", "ffffffff"])
def test_an_invalid_length_is_rejected_with_its_fourth_byte(length):
    field = bytes.fromhex(length)
    reader = FrameReader()
    for byte in field[:3]:
        assert reader.feed(bytes([byte])) == []
    with pytest.raises(ProtocolError, match=str(int(length, 16))):
        reader.feed(field[3:])


@pytest.mark.parametrize("length", ["00000000", "00040001"])
def test_an_invalid_length_after_a_valid_packet_is_rejected(length):
    with pytest.raises(ProtocolError):
        FrameReader().feed(STREAM + bytes.fromhex(length))


def test_a_long_chunk_is_split_a_few_packets_at_a_time():
    reader, short = FrameReader(), bytes.fromhex("0000000102")
    assert reader.feed(short * (2 * MAX_FRAMES + 1) + STREAM[:7]) == [b"\x02"] * MAX_FRAMES
    assert reader.more
    assert reader.feed() == [b"\x02"] * MAX_FRAMES
    assert reader.more
    assert reader.feed(STREAM[7:]) == [b"\x02", *FRAMES]
    assert not reader.more


def test_an_http_client_is_rejected_at_once():
    with pytest.raises(ProtocolError):
        FrameReader().feed(b"GET / HTTP/1.1\r\n")
