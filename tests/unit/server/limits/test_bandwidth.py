"""A user's sessions are served at the bandwidth limit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftp_gateway.protocol.constants import MAX_READ_LENGTH
from sftp_gateway.server.limits.bandwidth import BandwidthLimiter
from tests.support import sftp_wire as wire
from tests.support.session import GatedShare, Served, served

LIMIT = 2 * MAX_READ_LENGTH
#: The longest READ, with the header of its response.
REPLY = MAX_READ_LENGTH + 13
COUNT = 12


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bandwidth(clock: Clock) -> BandwidthLimiter:
    return BandwidthLimiter(LIMIT, clock=clock)


@pytest.fixture
def slow(tmp_path: Path, bandwidth: BandwidthLimiter) -> Iterator[Served]:
    (tmp_path / "file").write_bytes(bytes(COUNT * MAX_READ_LENGTH))
    with served(GatedShare(tmp_path), bandwidth=bandwidth) as at:
        yield at


def test_sessions_share_the_limit(clock: Clock, bandwidth: BandwidthLimiter) -> None:
    bandwidth.consume(LIMIT)
    assert bandwidth.delay() == 0
    bandwidth.consume(LIMIT // 2)
    assert bandwidth.delay() == 0.5
    clock.now = 0.5
    assert bandwidth.delay() == 0


def test_a_worker_gets_its_share_of_the_limit(clock: Clock, bandwidth: BandwidthLimiter) -> None:
    assert bandwidth.set_share(0.25) == LIMIT / 4
    bandwidth.consume(LIMIT)
    assert bandwidth.delay() == 3.0
    bandwidth.set_share(1.0)
    assert bandwidth.delay() == 0.75
    assert bandwidth.set_share(0.0) == 0
    assert bandwidth.delay() == 0.75


async def test_a_session_pauses_at_its_limit(slow: Served, clock: Clock) -> None:
    handle = await slow.open(b"share/file")
    before = slow.channel.written
    requests = [
        slow.prepare(wire.encode_read, handle, piece * MAX_READ_LENGTH, MAX_READ_LENGTH)
        for piece in range(COUNT)
    ]
    slow.feed(*(packet for _, packet in requests))
    # The data of one second, and the response that exceeded it.
    assert LIMIT < slow.channel.written - before <= LIMIT + REPLY
    assert slow.session.busy
    held = slow.channel.written
    slow.feed(slow.prepare(wire.encode_stat, b"/")[1])  # is throttled too
    for _ in range(10):  # turns of the event loop
        await asyncio.sleep(0)
    assert slow.channel.written == held
    for second in range(1, COUNT):
        clock.now = float(second)
        answers = min(COUNT, 2 + 2 * second)
        await slow.all_answered([request_id for request_id, _ in requests[:answers]])
        assert slow.channel.written - before <= LIMIT * (second + 1) + REPLY
    assert all(
        isinstance(reply, wire.DataReply) and len(reply.data) == MAX_READ_LENGTH
        for reply in await slow.all_answered([request_id for request_id, _ in requests])
    )


async def test_a_session_can_end_while_it_is_throttled(slow: Served) -> None:
    handle = await slow.open(b"share/file")
    for piece in range(COUNT):
        slow.send(wire.encode_read, handle, piece * MAX_READ_LENGTH, MAX_READ_LENGTH)
    slow.session.connection_lost()
    assert not slow.session.busy


async def test_bytes_read_by_threads_use_bandwidth(
    tmp_path: Path, bandwidth: BandwidthLimiter, slow: Served
) -> None:
    share = GatedShare(tmp_path)
    share.cold = {"read"}
    share.gate.set()
    with served(share, bandwidth=bandwidth) as at:
        handle = await at.open(b"share/file")
        first = [
            at.send(wire.encode_read, handle, piece * MAX_READ_LENGTH, MAX_READ_LENGTH)
            for piece in range(3)
        ]
        await at.all_answered(first)
        assert bandwidth.delay() > 0.4
