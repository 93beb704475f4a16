"""A session answers its requests and buffers a bounded amount for a slow client."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol.constants import MAX_PACKET_LENGTH, MAX_READ_LENGTH
from sftp_gateway.protocol.framing import MAX_FRAMES
from sftp_gateway.server.sftp.context import MAX_TURN_BYTES
from tests.support import sftp_wire as wire
from tests.support.session import HOME, GatedShare, Served, served
from tests.unit.server.conftest import CONTENT

#: The longest READ, with the header of its response.
REPLY = MAX_READ_LENGTH + 13


def sparse(root: Path, pieces: int) -> None:
    """Create the file `sparse`, as long as `pieces` of the longest READs."""
    with open(root / "sparse", "wb") as file:
        file.truncate(pieces * MAX_READ_LENGTH)


async def reads(at: Served, count: int) -> list[int]:
    """Request all of the file `sparse` at once."""
    handle = await at.open(b"share/sparse")
    requests = [
        at.prepare(wire.encode_read, handle, piece * MAX_READ_LENGTH, MAX_READ_LENGTH)
        for piece in range(count)
    ]
    at.feed(*(packet for _, packet in requests))
    return [request_id for request_id, _ in requests]


def all_data(replies: list[Any]) -> bool:
    return all(isinstance(r, wire.DataReply) and len(r.data) == MAX_READ_LENGTH for r in replies)


async def test_init_of_any_version_is_answered_with_version_3(at: Served) -> None:
    (version,) = at.receive()
    assert isinstance(version, wire.VersionReply)
    assert version.version == 3
    assert (b"statvfs@openssh.com", b"2") in version.extensions


@pytest.mark.parametrize("version", [0, 2, 4, 6, 2**32 - 1])
async def test_init_with_an_extension_is_answered_with_version_3(
    share: GatedShare, version: int
) -> None:
    at = Served([share])
    at.feed(wire.encode_init(version, ((b"some@extension", b"1"),)))
    assert [reply.version for reply in at.receive() if isinstance(reply, wire.VersionReply)] == [3]
    at.close()


async def test_a_request_before_init_ends_the_session_unanswered(share: GatedShare) -> None:
    at = Served([share])
    at.send(wire.encode_stat, b"/")
    at.begin()
    assert at.channel.closed
    assert at.channel.writes == []
    assert [type(error) for error in at.failures] == [ProtocolError]
    at.close()


@pytest.mark.parametrize(
    "bad",
    [
        wire.encode_init(),
        wire.uint32(0),
        wire.uint32(MAX_PACKET_LENGTH + 1),
        wire.packet(wire.PacketType.STAT, wire.uint32(7), wire.uint32(100), b"cut short"),
        wire.packet(wire.PacketType.CLOSE, wire.uint32(7), wire.string(b"h" * 257)),
        wire.packet(wire.PacketType.STAT, b"\0\0"),
    ],
)
async def test_malformed_bytes_end_the_session_after_earlier_responses(
    at: Served, bad: bytes
) -> None:
    before = at.send(wire.encode_stat, b"/")
    at.feed(bad)
    assert at.channel.closed
    assert isinstance(at.answer(before), wire.AttrsReply)
    assert [type(error) for error in at.failures] == [ProtocolError]
    written = at.channel.written
    at.send(wire.encode_stat, b"/")
    assert at.channel.written == written


async def test_requests_may_arrive_byte_by_byte(at: Served) -> None:
    requests = [at.prepare(wire.encode_stat, HOME + b"share/file") for _ in range(3)]
    for byte in b"".join(packet for _, packet in requests):
        at.feed(bytes([byte]))
    for request_id, _ in requests:
        reply = await at.answered(request_id)
        assert reply.attrs.size == len(CONTENT)


async def test_responses_made_together_are_written_at_once(at: Served) -> None:
    before = len(at.channel.writes)
    requests = [at.prepare(wire.encode_lstat, HOME + b"share/file") for _ in range(50)]
    at.feed(*(packet for _, packet in requests))
    assert len(at.channel.writes) == before + 1
    assert all(at.answer(request_id) for request_id, _ in requests)


async def test_reads_of_any_size_return_the_file_and_then_eof(at: Served) -> None:
    handle = await at.open(b"share/file")
    for offset, length in [(0, 1), (50_000, 32_768), (99_000, 32_768), (0, 2**32 - 1)]:
        reply = await at.ask(wire.encode_read, handle, offset, length)
        assert reply.data == CONTENT[offset : offset + length]
    for offset in (100_000, 2**40, 2**64 - 1):
        assert (await at.ask(wire.encode_read, handle, offset, 10)).code == wire.Status.EOF
    assert (await at.ask(wire.encode_close, handle)).code == wire.Status.OK


async def test_a_read_of_zero_bytes_returns_no_data_and_no_eof(at: Served) -> None:
    handle = await at.open(b"share/file")
    assert (await at.ask(wire.encode_read, handle, 5, 0)).data == b""
    at.session.connection_lost()
    assert at.events("request")[-1]["result"] == "ok"


# A client that does not read


async def test_a_full_channel_pauses_serving_until_it_has_room(
    at: Served, root: Path, share: GatedShare
) -> None:
    sparse(root, 100)
    at.channel.room = at.channel.written + 300_000
    asked = await reads(at, 100)
    full = at.channel.written
    assert at.channel.room <= full <= at.channel.room + MAX_TURN_BYTES + REPLY
    late = at.send(wire.encode_stat, b"/")
    at.session.pump()
    await asyncio.sleep(0)
    assert at.channel.written == full
    assert at.answer(late) is None
    at.channel.room = None
    at.session.resume_writing()
    assert all_data(await at.all_answered(asked))
    await at.answered(late)


async def test_a_repeatedly_full_channel_gets_every_response_once(at: Served, root: Path) -> None:
    sparse(root, 30)
    at.channel.room = 0
    asked = await reads_of_a_full_channel(at, 30)
    steps = 0
    while any(at.answer(request_id) is None for request_id in asked):
        before = at.channel.written
        at.session.resume_writing()
        await asyncio.sleep(0)
        assert 0 < at.channel.written - before <= MAX_TURN_BYTES + REPLY
        steps += 1
    assert steps >= 10
    assert all_data(await at.all_answered(asked))


async def test_single_packets_are_served_no_further_than_a_batch(at: Served, root: Path) -> None:
    sparse(root, 30)
    handle = await at.open(b"share/sparse")
    await asyncio.sleep(0)
    before = at.channel.written
    asked = [
        at.send(wire.encode_read, handle, piece * MAX_READ_LENGTH, MAX_READ_LENGTH)
        for piece in range(30)
    ]
    assert before < at.channel.written <= before + MAX_TURN_BYTES + REPLY
    assert all_data(await at.all_answered(asked))


async def reads_of_a_full_channel(at: Served, count: int) -> list[int]:
    opening = at.send(wire.encode_open, HOME + b"share/sparse")
    at.session.resume_writing()
    handle = (await at.answered(opening)).handle
    requests = [
        at.prepare(wire.encode_read, handle, piece * MAX_READ_LENGTH, MAX_READ_LENGTH)
        for piece in range(count)
    ]
    at.feed(*(packet for _, packet in requests))
    return [request_id for request_id, _ in requests]


async def test_a_full_channel_starts_no_slow_reads(
    at: Served, root: Path, share: GatedShare
) -> None:
    sparse(root, 100)
    share.cold = {"read"}
    asked = await reads(at, 100)
    await share.arrivals(8)
    before = at.channel.written
    at.session.pause_writing()
    share.gate.set()
    await at.pools.idle()
    assert at.channel.written - before == 8 * REPLY
    at.session.resume_writing()
    assert all_data(await at.all_answered(asked))


async def test_a_long_response_yields_to_other_sessions(
    at: Served, root: Path, share: GatedShare
) -> None:
    sparse(root, 40)
    asked = await reads(at, 40)
    turns = [at.channel.written]
    assert turns[0] <= MAX_TURN_BYTES + 2 * REPLY
    with served(share) as other:
        assert other.receive()  # served before the first is done
    while at.answer(asked[-1]) is None:
        await asyncio.sleep(0)
        turns.append(at.channel.written)
    steps = [after - before for before, after in pairwise(turns)]
    assert max(steps) <= MAX_TURN_BYTES + 2 * REPLY
    assert all_data(await at.all_answered(asked))


async def test_a_long_backlog_pauses_reading_until_it_is_short(at: Served) -> None:
    at.session.pause_writing()
    asked = [at.send(wire.encode_stat, b"/") for _ in range(256)]
    assert at.channel.reading
    asked.append(at.send(wire.encode_stat, b"/"))
    assert not at.channel.reading
    at.session.resume_writing()
    assert at.channel.reading
    await at.all_answered(asked)


async def test_unparsed_requests_pause_reading_and_are_answered(
    at: Served,
) -> None:
    requests = [at.prepare(wire.encode_stat, b"/") for _ in range(3 * MAX_FRAMES)]
    at.session.pause_writing()
    at.feed(b"".join(packet for _, packet in requests))
    assert not at.channel.reading
    at.session.resume_writing()
    await at.all_answered([request_id for request_id, _ in requests])
    assert at.channel.reading


async def test_a_congested_log_pauses_serving_until_it_has_room(at: Served) -> None:
    at.congested = True
    asked = at.send(wire.encode_stat, b"/")
    at.session.pump()
    assert at.answer(asked) is None
    at.congested = False
    at.session.pump()
    assert isinstance(at.answer(asked), wire.AttrsReply)
