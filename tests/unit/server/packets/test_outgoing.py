"""Data laid out as packets is unchanged, wherever packets end."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftp_gateway.protocol.constants import DATA_HEADER_LENGTH, MAX_NAME_LENGTH, MAX_READ_LENGTH
from sftp_gateway.server.packets.outgoing import CAPACITY, HEADER, MAX_PAYLOAD, OutgoingBuffer
from sftp_gateway.server.sftp.context import FLUSH_BYTES

payloads = st.sampled_from([1024, 1025, 4096, 32_768])


@given(payloads, st.lists(st.binary(max_size=5000), max_size=20))
def test_appended_data_is_read_back(payload: int, pieces: list[bytes]) -> None:
    outgoing = OutgoingBuffer(payload)
    for piece in pieces:
        outgoing.put(piece)
    whole = b"".join(pieces)
    assert outgoing.length == len(whole)
    for start in (0, len(whole) // 2, len(whole)):
        assert outgoing.tail(start) == whole[start:]
    outgoing.clear()


@given(payloads, st.binary(max_size=70_000), st.integers(0, 3000))
def test_iovecs_are_where_the_data_lies(payload: int, data: bytes, before: int) -> None:
    outgoing = OutgoingBuffer(payload)
    outgoing.put(bytes(before))
    done = 0
    for place in outgoing.iovecs(before, len(data)):
        place[:] = data[done : done + len(place)]
        done += len(place)
    assert done == len(data)
    assert outgoing.length == before  # not yet committed
    outgoing.length += done
    assert outgoing.tail(before) == data
    outgoing.clear()


@given(payloads, st.binary(min_size=1, max_size=70_000))
def test_every_packet_but_the_last_is_full(payload: int, data: bytes) -> None:
    outgoing = OutgoingBuffer(payload)
    outgoing.put(data)
    for number in range(-(-len(data) // payload)):
        start = number * outgoing.stride + HEADER
        expected = data[number * payload : (number + 1) * payload]
        assert outgoing.memory[start : start + len(expected)] == expected
    outgoing.clear()


@pytest.mark.parametrize("payload", [1024, 1025, 32_767, 32_768])
def test_there_is_room_for_the_capacity(payload: int) -> None:
    outgoing = OutgoingBuffer(payload)
    data = os.urandom(CAPACITY)
    outgoing.put(data)
    assert outgoing.tail(0) == data
    outgoing.clear()


def test_the_longest_response_fits_after_unsent_ones() -> None:
    assert FLUSH_BYTES + DATA_HEADER_LENGTH + MAX_READ_LENGTH <= CAPACITY
    assert FLUSH_BYTES + 2 * MAX_NAME_LENGTH <= CAPACITY


def test_data_beyond_the_capacity_is_refused() -> None:
    outgoing = OutgoingBuffer(MAX_PAYLOAD)
    with pytest.raises(ValueError, match="exceed the capacity"):
        outgoing.put(bytes(2 * CAPACITY))
    outgoing.clear()


def test_memory_is_reused_only_after_clear() -> None:
    first, second = OutgoingBuffer(1024), OutgoingBuffer(1024)
    first.put(b"one client's")
    second.put(b"another's")
    assert first.tail(0) == b"one client's"
    first.clear()
    assert second.tail(0) == b"another's"
    second.clear()


@pytest.mark.parametrize(
    ("asked", "taken"),
    [(1 << 31, MAX_PAYLOAD), (32_768, 32_768), (1024, 1024), (1023, MAX_PAYLOAD), (0, MAX_PAYLOAD)],
)
def test_packets_fit_the_clients_maximum(asked: int, taken: int) -> None:
    assert OutgoingBuffer(asked).payload == taken
