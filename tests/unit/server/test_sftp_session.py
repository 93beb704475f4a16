"""A session answers everything it is asked, holds a bounded amount, and leaves nothing open."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol.constants import MAX_PACKET_LENGTH, MAX_READ_LENGTH
from sftp_gateway.server.lanes import Lanes
from sftp_gateway.server.sftp import MAX_PENDING, TURN_BYTES
from tests.support import sftp_wire as wire
from tests.support.session import HOME, GatedShare, Served, served

CONTENT = os.urandom(100_000)
#: A READ of the longest kind with its answer's header.
REPLY = MAX_READ_LENGTH + 13


@pytest.fixture
def at(share: GatedShare, root: Path) -> Iterator[Served]:
    (root / "file").write_bytes(CONTENT)
    with served(share) as session:
        yield session


def sparse(root: Path, pieces: int) -> None:
    """Make the file `sparse`, of so many of the longest READs."""
    with open(root / "sparse", "wb") as file:
        file.truncate(pieces * MAX_READ_LENGTH)


async def reads(at: Served, count: int) -> list[int]:
    """Ask for all of the file `sparse` at once."""
    handle = await at.open(b"share/sparse")
    requests = [
        at.prepare(wire.encode_read, handle, piece * MAX_READ_LENGTH, MAX_READ_LENGTH)
        for piece in range(count)
    ]
    at.feed(*(packet for _, packet in requests))
    return [request_id for request_id, _ in requests]


def all_data(replies: list[Any]) -> bool:
    return all(isinstance(r, wire.DataReply) and len(r.data) == MAX_READ_LENGTH for r in replies)


async def test_init_is_answered_with_version_3_whatever_the_client_offers(at: Served) -> None:
    (version,) = at.receive()
    assert isinstance(version, wire.VersionReply)
    assert version.version == 3
    assert (b"statvfs@openssh.com", b"2") in version.extensions


@pytest.mark.parametrize("version", [0, 2, 4, 6, 2**32 - 1])
async def test_another_version_is_answered_with_version_3(share: GatedShare, version: int) -> None:
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
async def test_bytes_that_are_no_request_end_the_session_behind_the_answers_before(
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


async def test_requests_that_come_byte_by_byte_are_answered(at: Served) -> None:
    requests = [at.prepare(wire.encode_stat, HOME + b"share/file") for _ in range(3)]
    for byte in b"".join(packet for _, packet in requests):
        at.feed(bytes([byte]))
    for request_id, _ in requests:
        reply = await at.answered(request_id)
        assert reply.attrs.size == len(CONTENT)


async def test_answers_that_are_made_together_are_written_as_one_piece(at: Served) -> None:
    before = len(at.channel.writes)
    requests = [at.prepare(wire.encode_lstat, HOME + b"share/file") for _ in range(50)]
    at.feed(*(packet for _, packet in requests))
    assert len(at.channel.writes) == before + 1
    assert all(at.answer(request_id) for request_id, _ in requests)


async def test_a_file_is_read_in_any_pieces_and_ends_with_eof(at: Served) -> None:
    handle = await at.open(b"share/file")
    for offset, length in [(0, 1), (50_000, 32_768), (99_000, 32_768), (0, 2**32 - 1)]:
        reply = await at.ask(wire.encode_read, handle, offset, length)
        assert reply.data == CONTENT[offset : offset + length]
    for offset in (100_000, 2**40, 2**64 - 1):
        assert (await at.ask(wire.encode_read, handle, offset, 10)).code == wire.Status.EOF
    assert (await at.ask(wire.encode_close, handle)).code == wire.Status.OK


async def test_a_read_of_nothing_is_answered_with_nothing_and_not_with_eof(at: Served) -> None:
    handle = await at.open(b"share/file")
    assert (await at.ask(wire.encode_read, handle, 5, 0)).data == b""
    at.session.connection_lost()
    assert at.events("request")[-1]["result"] == "ok"


# A client that asks and does not read


async def test_a_full_channel_stops_serving_until_it_has_room(
    at: Served, root: Path, share: GatedShare
) -> None:
    sparse(root, 100)
    at.channel.room = at.channel.written + 300_000
    asked = await reads(at, 100)
    full = at.channel.written
    assert at.channel.room <= full <= at.channel.room + TURN_BYTES + REPLY
    late = at.send(wire.encode_stat, b"/")
    at.session.pump()
    await asyncio.sleep(0)
    assert at.channel.written == full
    assert at.answer(late) is None
    at.channel.room = None
    at.session.resume_writing()
    assert all_data(await at.all_answered(asked))
    await at.answered(late)


async def test_a_channel_that_fills_again_and_again_gets_everything_once(
    at: Served, root: Path
) -> None:
    sparse(root, 30)
    at.channel.room = 0
    asked = await reads_of_a_full_channel(at, 30)
    steps = 0
    while any(at.answer(request_id) is None for request_id in asked):
        before = at.channel.written
        at.session.resume_writing()
        assert 0 < at.channel.written - before <= TURN_BYTES + REPLY
        steps += 1
    assert steps >= 10
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


async def test_a_full_channel_starts_no_more_slow_reads(
    at: Served, root: Path, share: GatedShare
) -> None:
    sparse(root, 100)
    share.cold = {"read"}
    asked = await reads(at, 100)
    await share.arrivals(8)
    before = at.channel.written
    at.session.pause_writing()
    share.gate.set()
    await at.lanes.idle()
    assert at.channel.written - before == 8 * REPLY
    at.session.resume_writing()
    assert all_data(await at.all_answered(asked))


async def test_a_long_answer_lets_others_have_their_turn(
    at: Served, root: Path, share: GatedShare
) -> None:
    sparse(root, 40)
    asked = await reads(at, 40)
    turns = [at.channel.written]
    assert turns[0] <= TURN_BYTES + 2 * REPLY
    with served(share) as other:
        assert other.receive()  # served while the first has more to do
    while at.answer(asked[-1]) is None:
        await asyncio.sleep(0)
        turns.append(at.channel.written)
    steps = [after - before for before, after in pairwise(turns)]
    assert max(steps) <= TURN_BYTES + 2 * REPLY
    assert all_data(await at.all_answered(asked))


async def test_a_long_backlog_stops_reading_until_it_is_short(at: Served) -> None:
    at.session.pause_writing()
    asked = [at.send(wire.encode_stat, b"/") for _ in range(256)]
    assert at.channel.reading
    asked.append(at.send(wire.encode_stat, b"/"))
    assert not at.channel.reading
    at.session.resume_writing()
    assert at.channel.reading
    await at.all_answered(asked)


async def test_a_log_that_is_congested_stops_serving_until_it_has_room(at: Served) -> None:
    at.congested = True
    asked = at.send(wire.encode_stat, b"/")
    at.session.pump()
    assert at.answer(asked) is None
    at.congested = False
    at.session.pump()
    assert isinstance(at.answer(asked), wire.AttrsReply)


# Slow disks


async def test_a_slow_request_delays_none_of_the_others(at: Served, share: GatedShare) -> None:
    share.cold = {"lstat", "read"}
    handle = await at.open(b"share/file")
    slow = [
        at.send(wire.encode_lstat, HOME + b"share/file"),
        at.send(wire.encode_read, handle, 0, 100),
    ]
    await share.arrivals(2)
    assert isinstance(await at.ask(wire.encode_stat, HOME + b"share/file"), wire.AttrsReply)
    assert isinstance(await at.ask(wire.encode_limits), wire.ExtendedReply)
    assert not any(at.answer(request_id) for request_id in slow)
    share.gate.set()
    attributes, data = await at.all_answered(slow)
    assert attributes.attrs.size == len(CONTENT)
    assert data.data == CONTENT[:100]
    assert at.metric("sftp_gateway_slow_reads_total", share="share") == 1


async def test_a_session_has_at_most_eight_reads_on_threads(at: Served, share: GatedShare) -> None:
    share.cold = {"read"}
    handle = await at.open(b"share/file")
    asked = [at.send(wire.encode_read, handle, offset, 10) for offset in range(50)]
    await share.arrivals(8)
    assert at.lanes.depths()["share", "read"] == 8
    share.gate.set()
    replies = await at.all_answered(asked)
    assert [reply.data for reply in replies] == [CONTENT[n : n + 10] for n in range(50)]
    assert at.metric("sftp_gateway_slow_reads_total", share="share") == 50


async def test_a_session_has_at_most_so_many_requests_pending(
    at: Served, share: GatedShare
) -> None:
    share.cold = {"lstat"}
    asked = [at.send(wire.encode_lstat, HOME + b"share/file") for _ in range(MAX_PENDING + 50)]
    asked.append(at.send(wire.encode_limits))
    assert at.lanes.depths()["share", "metadata"] == MAX_PENDING
    assert at.answer(asked[-1]) is None
    share.gate.set()
    await at.all_answered(asked)


async def test_reads_that_wait_count_as_pending(at: Served, share: GatedShare) -> None:
    share.cold = {"read"}
    handle = await at.open(b"share/file")
    asked = [at.send(wire.encode_read, handle, 0, 10) for _ in range(MAX_PENDING)]
    behind = at.send(wire.encode_limits)
    assert at.answer(behind) is None
    share.gate.set()
    await at.all_answered([*asked, behind])


# Closing


async def test_a_close_behind_reads_that_are_under_way_answers_them_and_then_closes_the_file(
    at: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    share.cold = {"read"}
    handle = await at.open(b"share/file")
    asked = [at.send(wire.encode_read, handle, offset, 100) for offset in range(0, 2000, 100)]
    closing = at.send(wire.encode_close, handle)
    assert (await at.answered(closing)).code == wire.Status.OK
    late = await at.ask(wire.encode_read, handle, 0, 100)
    assert (late.code, late.message) == (wire.Status.FAILURE, "Invalid handle")
    assert descriptors() == before + 1
    share.gate.set()
    replies = await at.all_answered(asked)
    assert b"".join(reply.data for reply in replies) == CONTENT[:2000]
    await at.lanes.idle()
    assert descriptors() == before
    (closed,) = at.events("file_closed")
    assert (closed["bytes"], closed["reads"], closed["result"]) == (2000, 20, "ok")


async def test_a_handle_is_closed_once(at: Served) -> None:
    handle = await at.open(b"share/file")
    assert (await at.ask(wire.encode_close, handle)).code == wire.Status.OK
    again = await at.ask(wire.encode_close, handle)
    assert (again.code, again.message) == (wire.Status.FAILURE, "Invalid handle")
    assert len(at.events("file_closed")) == 1


async def test_a_handle_of_a_file_is_none_of_a_folder(at: Served) -> None:
    file, folder = await at.open(b"share/file"), await at.opendir(b"share")
    for encode, values in [(wire.encode_readdir, (file,)), (wire.encode_read, (folder, 0, 10))]:
        reply = await at.ask(encode, *values)
        assert (reply.code, reply.message) == (wire.Status.FAILURE, "Invalid handle")


async def test_a_lost_connection_closes_all_that_is_open(
    at: Served, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    await at.open(b"share/file")
    await at.open(b"share/file")
    await at.opendir(b"share")
    await at.opendir(b"")
    assert descriptors() == before + 4  # scandir has one of its own
    assert at.metric("sftp_gateway_open_handles") == 4
    at.session.connection_lost()
    assert descriptors() == before
    assert at.metric("sftp_gateway_open_handles") == 0
    assert [line["result"] for line in at.events("file_closed")] == ["aborted"] * 2
    assert len(at.events("folder_listed")) == 2


async def test_a_connection_that_is_lost_while_reads_are_under_way_leaves_nothing_open(
    at: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    share.cold = {"read"}
    handle = await at.open(b"share/file")
    for offset in range(20):
        at.send(wire.encode_read, handle, offset, 100)
    await share.arrivals(8)
    written = at.channel.written
    at.session.connection_lost()
    assert descriptors() == before + 1  # the reads on threads still have it
    share.gate.set()
    await at.lanes.idle()
    assert descriptors() == before
    assert at.channel.written == written
    assert at.metric("sftp_gateway_open_handles") == 0


@pytest.mark.parametrize("count", [1, 8, 30])
async def test_a_connection_that_is_lost_behind_a_close_behind_reads_leaves_nothing_open(
    at: Served, share: GatedShare, descriptors: Callable[[], int], count: int
) -> None:
    before = descriptors()
    share.cold = {"read"}
    handle = await at.open(b"share/file")
    for offset in range(count):
        at.send(wire.encode_read, handle, offset, 100)
    await at.ask(wire.encode_close, handle)
    at.session.connection_lost()
    share.gate.set()
    await at.lanes.idle()
    assert descriptors() == before
    assert at.metric("sftp_gateway_open_handles") == 0
    assert [line["result"] for line in at.events("file_closed")] == ["aborted"]


@pytest.mark.parametrize(
    ("encode", "path"), [(wire.encode_open, b"share/file"), (wire.encode_opendir, b"share")]
)
async def test_what_is_opened_after_the_connection_was_lost_is_closed_again(
    at: Served,
    share: GatedShare,
    descriptors: Callable[[], int],
    encode: Callable[..., bytes],
    path: bytes,
) -> None:
    before = descriptors()
    share.cold = {"open_file", "open_directory"}
    at.send(encode, HOME + path)
    await share.arrivals(1)
    at.session.connection_lost()
    share.gate.set()
    await at.lanes.idle()
    assert descriptors() == before
    assert at.metric("sftp_gateway_open_handles") == 0
    assert at.events("file_opened") == at.events("file_closed") == []


async def test_a_folder_that_is_being_listed_while_the_connection_is_lost_is_closed(
    at: Served, share: GatedShare, root: Path, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    handle = await at.opendir(b"share")
    for _ in range(5):
        at.send(wire.encode_readdir, handle)
    at.session.connection_lost()
    await at.lanes.idle()
    assert descriptors() == before


async def test_after_a_protocol_error_late_results_are_dropped_and_nothing_stays_open(
    at: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    handle = await at.open(b"share/file")
    share.cold = {"read", "open_file"}
    for _ in range(20):
        at.send(wire.encode_read, handle, 0, 10)
        at.send(wire.encode_open, HOME + b"share/file")
    at.feed(wire.encode_init())
    assert at.channel.closed
    share.gate.set()
    at.session.resume_writing()  # the channel sends what it has
    await at.lanes.idle()
    at.session.connection_lost()
    assert descriptors() == before


async def test_a_full_table_of_handles_is_told_and_never_exceeded(
    share: GatedShare, root: Path, descriptors: Callable[[], int]
) -> None:
    (root / "file").write_bytes(b"")
    with served(share, capacity=20) as at:
        before = descriptors()
        share.cold = {"open_file"}
        asked = [at.send(wire.encode_open, HOME + b"share/file") for _ in range(50)]
        share.gate.set()
        replies = await at.all_answered(asked)
        opened = [reply for reply in replies if isinstance(reply, wire.HandleReply)]
        refused = [reply for reply in replies if isinstance(reply, wire.StatusReply)]
        assert (len(opened), len(refused)) == (20, 30)
        assert {(reply.code, reply.message) for reply in refused} == {
            (wire.Status.FAILURE, "Too many open handles")
        }
        assert descriptors() == before + 20
        await at.ask(wire.encode_close, opened[0].handle)
        assert await at.open(b"share/file")


# Folders


async def test_many_outstanding_readdirs_are_answered_in_their_order(
    at: Served, root: Path
) -> None:
    names = {b"%04d" % number + b"n" * 200 for number in range(1500)}
    for name in names:
        (root / os.fsdecode(name)).touch()
    handle = await at.opendir(b"share")
    requests = [at.prepare(wire.encode_readdir, handle) for _ in range(32)]
    at.feed(*(packet for _, packet in requests))
    replies = await at.all_answered([request_id for request_id, _ in requests])
    order = [
        reply.request_id
        for reply in at.replies
        if isinstance(reply, wire.NameReply) or getattr(reply, "code", None) == wire.Status.EOF
    ]
    assert order == [request_id for request_id, _ in requests]
    pages = [reply for reply in replies if isinstance(reply, wire.NameReply)]
    assert 5 < len(pages) < 32
    assert {reply.code for reply in replies[len(pages) :]} == {wire.Status.EOF}
    listed = [name.filename for page in pages for name in page.names]
    assert len(listed) == len(set(listed))
    assert set(listed) == names | {b".", b"..", b"file"}
    await at.ask(wire.encode_close, handle)
    (line,) = at.events("folder_listed")
    assert (line["entries"], line["complete"]) == (1501, True)


async def test_a_close_in_front_of_waiting_readdirs_answers_every_one(
    at: Served, share: GatedShare
) -> None:
    handle = await at.opendir(b"share")
    share.cold = {"lstat"}
    holding = [at.send(wire.encode_lstat, HOME + b"share/file") for _ in range(8)]
    await share.arrivals(8)  # no thread is left for the folder
    asked = [at.send(wire.encode_readdir, handle) for _ in range(5)]
    assert (await at.ask(wire.encode_close, handle)).code == wire.Status.OK
    assert [at.answer(request_id) is not None for request_id in asked] == [False] + 4 * [True]
    share.gate.set()
    replies = await at.all_answered(asked)
    assert {(reply.code, reply.message) for reply in replies} == {
        (wire.Status.FAILURE, "Invalid handle")
    }
    await at.all_answered(holding)
    # Nothing counts as pending any more.
    at.session.finish()
    assert at.channel.closed


async def test_made_up_folders_are_listed_without_a_thread(at: Served) -> None:
    reply = await at.ask(wire.encode_opendir, b"/home")
    listing = at.send(wire.encode_readdir, reply.handle)
    names = at.answer(listing)
    assert isinstance(names, wire.NameReply)
    assert [name.filename for name in names.names] == [b".", b"..", b"worker"]
    end = at.answer(at.send(wire.encode_readdir, reply.handle))
    assert isinstance(end, wire.StatusReply)
    assert end.code == wire.Status.EOF
    assert [line["result"] for line in at.events("request")] == ["ok", "ok", "eof"]


# Stopping


async def test_a_drained_session_closes_when_nothing_is_open(at: Served, share: GatedShare) -> None:
    file, folder = await at.open(b"share/file"), await at.opendir(b"share")
    share.cold = {"read"}
    at.session.drain()
    reading = at.send(wire.encode_read, file, 0, 100)
    await at.ask(wire.encode_close, folder)
    await at.ask(wire.encode_close, file)
    assert not at.channel.closed
    share.gate.set()
    assert (await at.answered(reading)).data == CONTENT[:100]
    await at.lanes.idle()
    assert at.channel.closed


async def test_a_drained_session_that_has_nothing_open_closes_at_once(at: Served) -> None:
    at.session.drain()
    assert at.channel.closed


async def test_a_drained_session_answers_what_waits_before_it_closes(at: Served) -> None:
    at.session.pause_writing()
    asked = [at.send(wire.encode_stat, b"/") for _ in range(10)]
    at.session.drain()
    assert not at.channel.closed
    at.session.resume_writing()
    await at.all_answered(asked)
    assert at.channel.closed


async def test_a_finished_session_answers_what_was_asked_and_takes_no_more(
    at: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    handle = await at.open(b"share/file")
    share.cold = {"read"}
    reading = [at.send(wire.encode_read, handle, offset, 10) for offset in range(20)]
    at.session.pause_writing()
    waiting = at.send(wire.encode_stat, b"/")
    at.session.finish()
    late = at.send(wire.encode_stat, b"/")
    assert not at.channel.closed
    at.session.resume_writing()
    share.gate.set()
    replies = await at.all_answered([*reading, waiting])
    assert [reply.data for reply in replies[:-1]] == [CONTENT[n : n + 10] for n in range(20)]
    await at.lanes.idle()
    assert at.channel.closed
    assert at.answer(late) is None
    at.session.connection_lost()
    assert descriptors() == before


async def test_a_finished_session_with_nothing_to_answer_closes_at_once(at: Served) -> None:
    await at.open(b"share/file")
    at.session.finish()
    at.session.finish()
    assert at.channel.closed


async def test_requests_that_wait_for_a_lane_that_is_closed_fail(
    at: Served, share: GatedShare
) -> None:
    share.cold = {"lstat"}
    asked = [at.send(wire.encode_lstat, HOME + b"share/file") for _ in range(12)]
    await share.arrivals(8)
    Lanes.close(at.lanes)
    replies = await at.all_answered(asked[8:])
    assert {(reply.code, reply.message) for reply in replies} == {(wire.Status.FAILURE, "Failure")}
    share.gate.set()
    assert all(isinstance(r, wire.AttrsReply) for r in await at.all_answered(asked[:8]))


# Bugs and broken disks


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (RuntimeError("a secret of ours"), "Failure"),
        (OSError(errno.EIO, "a secret of ours"), "Input/output error"),
        (OSError(errno.ENOMEM, "a secret of ours"), "Failure"),
        (MemoryError("a secret of ours"), "Failure"),
    ],
)
async def test_an_error_inside_an_operation_is_a_failure_and_the_session_lives(
    at: Served, share: GatedShare, failure: Exception, message: str, cold: bool
) -> None:
    handle = await at.open(b"share/file")
    share.failure, share.cold = failure, {"lstat", "read"} if cold else set()
    share.gate.set()
    for encode, values in [
        (wire.encode_lstat, (HOME + b"share/file",)),
        (wire.encode_read, (handle, 0, 10)),
    ]:
        reply = await at.ask(encode, *values)
        assert (reply.code, reply.message) == (wire.Status.FAILURE, message)
    assert at.failures == [failure, failure]
    share.failure = None
    assert (await at.ask(wire.encode_read, handle, 0, 10)).data == CONTENT[:10]
    assert [line["result"] for line in at.events("request")][-3:] == ["failure", "failure", "ok"]


async def test_an_error_while_a_request_is_planned_is_a_failure_and_the_session_lives(
    at: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at.tree, "home", None)
    reply = await at.ask(wire.encode_home_directory, b"")
    assert (reply.code, reply.message) == (wire.Status.FAILURE, "Failure")
    assert [type(error) for error in at.failures] == [AttributeError]
    monkeypatch.undo()
    assert isinstance(await at.ask(wire.encode_home_directory, b""), wire.NameReply)


async def test_an_error_while_an_answer_is_made_is_a_failure_and_the_session_lives(
    at: Served, share: GatedShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "readlink", lambda path, wait: "text, not bytes")
    reply = await at.ask(wire.encode_readlink, HOME + b"share/file")
    assert (reply.code, reply.message) == (wire.Status.FAILURE, "Failure")
    assert [type(error) for error in at.failures] == [TypeError]
    assert isinstance(await at.ask(wire.encode_stat, b"/"), wire.AttrsReply)


async def test_what_was_opened_is_closed_again_when_its_answer_cannot_be_made(
    at: Served, descriptors: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()

    def broken(opened: object) -> bytes:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(at.handles, "add", broken)
    for encode, path in [(wire.encode_open, b"share/file"), (wire.encode_opendir, b"share")]:
        reply = await at.ask(encode, HOME + path)
        assert (reply.code, reply.message) == (wire.Status.FAILURE, "Failure")
    assert descriptors() == before


# What is denied


@pytest.mark.parametrize(
    ("encode", "values"),
    [
        (wire.encode_open, (HOME + b"share/new", wire.Open.WRITE | wire.Open.CREAT)),
        (wire.encode_remove, (HOME + b"share/file",)),
        (wire.encode_rename, (HOME + b"share/file", HOME + b"share/other")),
        (wire.encode_mkdir, (HOME + b"share/new", wire.Attrs())),
        (wire.encode_write, (b"\0\0\0\0", 0, b"data")),
        (wire.encode_fsync, (b"no such handle",)),
    ],
)
async def test_whatever_would_write_is_denied_and_logged(
    at: Served, root: Path, encode: Callable[..., bytes], values: tuple[Any, ...]
) -> None:
    reply = await at.ask(encode, *values)
    assert (reply.code, reply.message) == (wire.Status.PERMISSION_DENIED, "Permission denied")
    (line,) = at.events("denied")
    assert line["reason"] == "read_only"
    assert at.metric("sftp_gateway_denied_total", reason="read_only") == 1
    assert os.listdir(root) == ["file"]
    assert at.failures == []


async def test_a_denied_write_says_which_open_file_it_was_for(at: Served) -> None:
    handle = await at.open(b"share/file")
    await at.ask(wire.encode_write, handle, 0, b"data")
    (line,) = at.events("denied")
    assert (line["share"], line["path"]) == ("share", "/home/worker/share/file")


async def test_both_paths_of_a_rename_are_in_the_log(at: Served) -> None:
    await at.ask(wire.encode_rename, HOME + b"share/file", b"/etc/\xff")
    (line,) = at.events("denied")
    assert (line["path"], line["target"]) == ("/home/worker/share/file", "/etc/\\xff")


async def test_an_unknown_request_is_unsupported_and_not_denied(at: Served) -> None:
    for encode, values in [
        (wire.encode_extended, (b"unknown@example.org",)),
        (lambda request_id: wire.packet(99, wire.uint32(request_id)), ()),
    ]:
        reply = await at.ask(encode, *values)
        assert (reply.code, reply.message) == (
            wire.Status.OP_UNSUPPORTED,
            "Operation unsupported",
        )
    assert at.events("denied") == []
    assert at.failures == []
