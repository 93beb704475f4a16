"""When handles or sessions close, pending requests are answered and nothing stays open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sftp_gateway.server.io_pools import IoPools
from tests.support import sftp_wire as wire
from tests.support.session import HOME, GatedShare, Served, served
from tests.unit.server.conftest import CONTENT


async def test_a_close_waits_for_pending_reads(
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
    await at.pools.idle()
    assert descriptors() == before
    (closed,) = at.events("file_closed")
    assert (closed["bytes"], closed["reads"], closed["result"]) == (2000, 20, "ok")


async def test_a_handle_can_be_closed_once(at: Served) -> None:
    handle = await at.open(b"share/file")
    assert (await at.ask(wire.encode_close, handle)).code == wire.Status.OK
    again = await at.ask(wire.encode_close, handle)
    assert (again.code, again.message) == (wire.Status.FAILURE, "Invalid handle")
    assert len(at.events("file_closed")) == 1


async def test_a_file_handle_is_not_a_folder_handle(at: Served) -> None:
    file, folder = await at.open(b"share/file"), await at.opendir(b"share")
    for encode, values in [(wire.encode_readdir, (file,)), (wire.encode_read, (folder, 0, 10))]:
        reply = await at.ask(encode, *values)
        assert (reply.code, reply.message) == (wire.Status.FAILURE, "Invalid handle")


async def test_a_lost_connection_closes_all_handles(
    at: Served, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    await at.open(b"share/file")
    await at.open(b"share/file")
    await at.opendir(b"share")
    await at.opendir(b"")
    assert descriptors() == before + 3  # the home folder is a virtual directory
    assert at.metric("sftp_gateway_open_handles") == 4
    at.session.connection_lost()
    assert descriptors() == before
    assert at.metric("sftp_gateway_open_handles") == 0
    assert [line["result"] for line in at.events("file_closed")] == ["aborted"] * 2
    assert len(at.events("folder_listed")) == 2


async def test_a_connection_lost_during_reads_leaves_nothing_open(
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
    assert descriptors() == before + 1  # the pending reads still hold it
    share.gate.set()
    await at.pools.idle()
    assert descriptors() == before
    assert at.channel.written == written
    assert at.metric("sftp_gateway_open_handles") == 0


@pytest.mark.parametrize("count", [1, 8, 30])
async def test_a_connection_lost_while_a_close_waits_for_reads_closes_all(
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
    await at.pools.idle()
    assert descriptors() == before
    assert at.metric("sftp_gateway_open_handles") == 0
    assert [line["result"] for line in at.events("file_closed")] == ["aborted"]


@pytest.mark.parametrize(
    ("encode", "path"), [(wire.encode_open, b"share/file"), (wire.encode_opendir, b"share")]
)
async def test_a_handle_opened_after_the_connection_was_lost_is_closed(
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
    await at.pools.idle()
    assert descriptors() == before
    assert at.metric("sftp_gateway_open_handles") == 0
    assert at.events("file_opened") == at.events("file_closed") == []


async def test_a_connection_lost_during_a_listing_closes_the_folder(
    at: Served, share: GatedShare, root: Path, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    handle = await at.opendir(b"share")
    for _ in range(5):
        at.send(wire.encode_readdir, handle)
    at.session.connection_lost()
    await at.pools.idle()
    assert descriptors() == before


async def test_a_protocol_error_drops_late_results_and_closes_all_handles(
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
    at.session.resume_writing()  # the channel has drained
    await at.pools.idle()
    at.session.connection_lost()
    assert descriptors() == before


@pytest.mark.parametrize("end", ["eof", "protocol error"])
async def test_handles_are_released_before_the_client_confirms_the_close(
    at: Served, descriptors: Callable[[], int], end: str
) -> None:
    before = descriptors()
    await at.open(b"share/file")
    await at.opendir(b"share")
    if end == "eof":
        at.session.finish()
    else:
        at.feed(wire.encode_init())
    assert at.channel.closed
    assert descriptors() == before
    assert at.metric("sftp_gateway_open_handles") == 0
    assert not at.room_taken
    at.session.connection_lost()
    assert [line["result"] for line in at.events("file_closed")] == ["aborted"]


async def test_a_failed_or_unanswered_open_uses_no_handle(share: GatedShare, root: Path) -> None:
    (root / "file").write_bytes(b"")
    with served(share, capacity=20) as at:
        missing = [at.send(wire.encode_open, HOME + b"share/missing") for _ in range(50)]
        await at.all_answered(missing)
        await at.all_answered([at.send(wire.encode_open, HOME + b"share") for _ in range(50)])
        assert not at.room_taken
        share.cold = {"open_file", "open_directory"}
        for _ in range(10):
            at.send(wire.encode_open, HOME + b"share/file")
            at.send(wire.encode_opendir, HOME + b"share")
        await share.arrivals(8)
        assert at.room_taken == 8
        at.session.connection_lost()
        share.gate.set()
        await at.pools.idle()
        assert not at.room_taken


async def test_an_open_over_the_limit_is_logged_with_the_limit(
    share: GatedShare, root: Path
) -> None:
    (root / "file").write_bytes(b"")
    with served(share, capacity=20) as at:
        for _ in range(20):
            await at.open(b"share/file")
        await at.ask(wire.encode_open, HOME + b"share/file")
        await at.ask(wire.encode_opendir, HOME + b"share")
        denials = at.events("denied")
        assert [line["operation"] for line in denials] == ["open", "opendir"]
        assert {(line["reason"], line["used"], line["limit"]) for line in denials} == {
            ("too_many_handles", 20, 20)
        }
        assert denials[0]["path"] == "/home/worker/share/file"
        assert at.metric("sftp_gateway_denied_total", reason="too_many_handles") == 2


async def test_a_full_handle_table_is_reported_and_never_exceeded(
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


async def test_a_connection_lost_while_a_close_waits_for_readdirs_closes_all(
    at: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    handle = await at.opendir(b"share")
    share.cold = {"lstat"}
    for _ in range(8):
        at.send(wire.encode_lstat, HOME + b"share/file")
    await share.arrivals(8)
    for _ in range(5):
        at.send(wire.encode_readdir, handle)
    await at.ask(wire.encode_close, handle)
    at.session.connection_lost()
    share.gate.set()
    await at.pools.idle()
    assert descriptors() == before
    assert at.metric("sftp_gateway_open_handles") == 0
    assert len(at.events("folder_listed")) == 1


# Stopping


async def test_a_drained_session_closes_with_its_last_handle(at: Served, share: GatedShare) -> None:
    file, folder = await at.open(b"share/file"), await at.opendir(b"share")
    share.cold = {"read"}
    at.session.drain()
    reading = at.send(wire.encode_read, file, 0, 100)
    await at.ask(wire.encode_close, folder)
    await at.ask(wire.encode_close, file)
    assert not at.channel.closed
    share.gate.set()
    assert (await at.answered(reading)).data == CONTENT[:100]
    await at.pools.idle()
    assert at.channel.closed


async def test_a_drained_session_without_handles_closes_at_once(at: Served) -> None:
    at.session.drain()
    assert at.channel.closed


async def test_a_drained_session_answers_pending_requests_before_it_closes(at: Served) -> None:
    at.session.pause_writing()
    asked = [at.send(wire.encode_stat, b"/") for _ in range(10)]
    at.session.drain()
    assert not at.channel.closed
    at.session.resume_writing()
    await at.all_answered(asked)
    assert at.channel.closed


async def test_a_finished_session_answers_pending_requests_only(
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
    await at.pools.idle()
    assert at.channel.closed
    assert at.answer(late) is None
    at.session.connection_lost()
    assert descriptors() == before


async def test_a_finished_session_without_requests_closes_at_once(at: Served) -> None:
    await at.open(b"share/file")
    at.session.finish()
    at.session.finish()
    assert at.channel.closed


async def test_requests_waiting_for_a_closed_pool_fail(at: Served, share: GatedShare) -> None:
    share.cold = {"lstat"}
    asked = [at.send(wire.encode_lstat, HOME + b"share/file") for _ in range(12)]
    await share.arrivals(8)
    IoPools.close(at.pools)
    replies = await at.all_answered(asked[8:])
    assert {(reply.code, reply.message) for reply in replies} == {(wire.Status.FAILURE, "Failure")}
    share.gate.set()
    assert all(isinstance(r, wire.AttrsReply) for r in await at.all_answered(asked[:8]))
