"""Cutting the stream into packets: the same packets however it arrives, and bounded memory."""

from __future__ import annotations

from itertools import chain

import pytest

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol.constants import MAX_PACKET_LENGTH
from sftp_gateway.protocol.framing import MAX_FRAMES, FrameReader

STREAM = bytes.fromhex(
    "00000005 01 00000003"  # INIT
    "00000001 ff"  # the shortest packet: a type and nothing else
    "0000000a 07 00000001 00000001 2f"  # LSTAT of /
)
FRAMES = [
    bytes.fromhex("01 00000003"),
    bytes.fromhex("ff"),
    bytes.fromhex("07 00000001 00000001 2f"),
]


def test_a_piece_may_hold_many_packets():
    assert FrameReader().feed(STREAM) == FRAMES


def test_packets_may_arrive_byte_by_byte():
    reader = FrameReader()
    assert list(chain.from_iterable(reader.feed(bytes([byte])) for byte in STREAM)) == FRAMES


def test_the_stream_may_be_cut_anywhere():
    for cut in range(len(STREAM) + 1):
        reader = FrameReader()
        assert reader.feed(STREAM[:cut]) + reader.feed(STREAM[cut:]) == FRAMES, cut


def test_a_packet_is_given_as_soon_as_its_last_byte_is_there():
    reader = FrameReader()
    assert reader.feed(STREAM[:8]) == []
    assert reader.feed(STREAM[8:9]) == FRAMES[:1]


def test_the_start_of_the_next_packet_is_kept():
    reader = FrameReader()
    assert reader.feed(STREAM + STREAM[:6]) == FRAMES
    assert reader.feed(STREAM[6:]) == FRAMES


def test_an_empty_piece_changes_nothing():
    reader = FrameReader()
    assert reader.feed(b"") == []
    assert reader.feed(STREAM[:7]) == []
    assert reader.feed(b"") == []
    assert reader.feed(STREAM[7:]) == FRAMES


def test_a_packet_of_the_greatest_length_is_taken():
    packet = bytes.fromhex("00040000") + b"\x06" * MAX_PACKET_LENGTH
    assert FrameReader().feed(packet + STREAM) == [packet[4:], *FRAMES]


@pytest.mark.parametrize("length", ["00000000", "00040001", "7fffffff", "80000000", "ffffffff"])
def test_a_length_of_zero_or_over_the_cap_is_refused_with_its_fourth_byte(length):
    field = bytes.fromhex(length)
    reader = FrameReader()
    for byte in field[:3]:
        assert reader.feed(bytes([byte])) == []
    with pytest.raises(ProtocolError, match=str(int(length, 16))):
        reader.feed(field[3:])


@pytest.mark.parametrize("length", ["00000000", "00040001"])
def test_a_refused_length_behind_a_good_packet_is_refused_in_the_same_piece(length):
    with pytest.raises(ProtocolError):
        FrameReader().feed(STREAM + bytes.fromhex(length))


def test_many_packets_in_one_piece_are_cut_a_few_at_a_time():
    reader, short = FrameReader(), bytes.fromhex("0000000102")
    assert reader.feed(short * (2 * MAX_FRAMES + 1) + STREAM[:7]) == [b"\x02"] * MAX_FRAMES
    assert reader.more
    assert reader.feed() == [b"\x02"] * MAX_FRAMES
    assert reader.more
    assert reader.feed(STREAM[7:]) == [b"\x02", *FRAMES]
    assert not reader.more


def test_an_http_client_is_refused_at_once():
    with pytest.raises(ProtocolError):
        FrameReader().feed(b"GET / HTTP/1.1\r\n")
