"""Requests waiting for a disk delay no others, and READDIRs are answered in order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sftp_gateway.server.sftp.session import MAX_PENDING
from tests.support import sftp_wire as wire
from tests.support.session import HOME, GatedShare, Served
from tests.unit.server.conftest import CONTENT


async def test_a_slow_request_does_not_delay_others(at: Served, share: GatedShare) -> None:
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
    assert at.pools.depths()["share", "read"] == 8
    share.gate.set()
    replies = await at.all_answered(asked)
    assert [reply.data for reply in replies] == [CONTENT[n : n + 10] for n in range(50)]
    assert at.metric("sftp_gateway_slow_reads_total", share="share") == 50


async def test_pending_requests_per_session_are_bounded(at: Served, share: GatedShare) -> None:
    share.cold = {"lstat"}
    asked = [at.send(wire.encode_lstat, HOME + b"share/file") for _ in range(MAX_PENDING + 50)]
    asked.append(at.send(wire.encode_limits))
    assert at.pools.depths()["share", "metadata"] == MAX_PENDING
    assert at.answer(asked[-1]) is None
    share.gate.set()
    await at.all_answered(asked)


async def _response_order(at: Served, share: GatedShare) -> tuple[list[int], list[int]]:
    """The ids of READs, of which only the first is uncached, and the ids in response order."""
    handle = await at.open(b"share/file")
    share.cold = {"read"}
    asked = [at.send(wire.encode_read, handle, 0, 10)]
    await share.arrivals(1)
    share.cold = set()
    asked += [at.send(wire.encode_read, handle, offset, 10) for offset in range(10, 200, 10)]
    share.gate.set()
    await at.all_answered(asked)
    replies = [reply for reply in at.replies if isinstance(reply, wire.DataReply)]
    assert [reply.data for reply in sorted(replies, key=lambda reply: reply.request_id)] == [
        CONTENT[offset : offset + 10] for offset in range(0, 200, 10)
    ]
    return asked, [reply.request_id for reply in replies]


async def test_a_cached_read_overtakes_an_uncached_one(at: Served, share: GatedShare) -> None:
    asked, answered = await _response_order(at, share)
    assert answered == [*asked[1:], asked[0]]


async def test_a_client_that_requested_limits_gets_reads_in_order(
    at: Served, share: GatedShare
) -> None:
    """OpenSSH's `scp` 9.1 to 9.3 truncates a copy if a response overtakes another."""
    await at.ask(wire.encode_limits)
    asked, answered = await _response_order(at, share)
    assert answered == asked


async def test_waiting_reads_are_pending(at: Served, share: GatedShare) -> None:
    share.cold = {"read"}
    handle = await at.open(b"share/file")
    asked = [at.send(wire.encode_read, handle, 0, 10) for _ in range(MAX_PENDING)]
    behind = at.send(wire.encode_limits)
    assert at.answer(behind) is None
    share.gate.set()
    await at.all_answered([*asked, behind])


# Folders


async def test_outstanding_readdirs_are_answered_in_order(at: Served, root: Path) -> None:
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


async def test_a_close_waits_for_pending_readdirs(
    at: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    handle = await at.opendir(b"share")
    share.cold = {"lstat"}
    holding = [at.send(wire.encode_lstat, HOME + b"share/file") for _ in range(8)]
    await share.arrivals(8)  # all threads are busy
    asked = [at.send(wire.encode_readdir, handle) for _ in range(5)]
    assert (await at.ask(wire.encode_close, handle)).code == wire.Status.OK
    late = await at.ask(wire.encode_readdir, handle)
    assert (late.code, late.message) == (wire.Status.FAILURE, "Invalid handle")
    assert not any(at.answer(request_id) for request_id in asked)
    share.gate.set()
    names, *ends = await at.all_answered(asked)
    assert {name.filename for name in names.names} == {b".", b"..", b"file"}
    assert {end.code for end in ends} == {wire.Status.EOF}
    await at.all_answered(holding)
    await at.pools.idle()
    assert descriptors() == before
    # Nothing is pending any more.
    at.session.finish()
    assert at.channel.closed
    (line,) = at.events("folder_listed")
    assert (line["entries"], line["complete"]) == (1, True)


async def test_virtual_directories_are_listed_without_a_thread(at: Served) -> None:
    reply = await at.ask(wire.encode_opendir, b"/home")
    listing = at.send(wire.encode_readdir, reply.handle)
    names = at.answer(listing)
    assert isinstance(names, wire.NameReply)
    assert [name.filename for name in names.names] == [b".", b"..", b"worker"]
    end = at.answer(at.send(wire.encode_readdir, reply.handle))
    assert isinstance(end, wire.StatusReply)
    assert end.code == wire.Status.EOF
    assert [line["result"] for line in at.events("request")] == ["ok", "ok", "eof"]


async def test_readdirs_past_the_end_are_answered_at_once(at: Served) -> None:
    """sshfs sends several ahead; all but the first are past the end."""
    handle = await at.opendir(b"share")
    assert isinstance(await at.ask(wire.encode_readdir, handle), wire.NameReply)
    ends = [at.send(wire.encode_readdir, handle) for _ in range(4)]
    assert not any(at.pools.depths().values())
    assert [at.answer(request_id).code for request_id in ends] == [wire.Status.EOF] * 4
    assert isinstance(await at.ask(wire.encode_close, handle), wire.StatusReply)
    (line,) = at.events("folder_listed")
    assert (line["entries"], line["complete"]) == (1, True)


async def test_readdirs_that_arrive_together_use_one_thread_job(at: Served) -> None:
    handle = await at.opendir(b"share")
    asked = [at.send(wire.encode_readdir, handle) for _ in range(5)]
    closing = at.send(wire.encode_close, handle)
    assert at.pools.depths()["share", "metadata"] == 1
    first, *rest = await at.all_answered(asked)
    assert sorted(name.filename for name in first.names) == [b".", b"..", b"file"]
    assert [reply.code for reply in rest] == [wire.Status.EOF] * 4
    assert (await at.answered(closing)).code == wire.Status.OK
    await at.pools.idle()
    assert at.metric("sftp_gateway_open_handles") == 0
