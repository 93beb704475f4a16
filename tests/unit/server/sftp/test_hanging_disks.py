"""Requests on a hanging disk fail after a timeout, and late results are released."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sftp_gateway.server.sftp import reads
from sftp_gateway.vfs.files import OpenDirectory
from tests.support import sftp_wire as wire
from tests.support.gateway import TIMEOUT
from tests.support.session import HOME, GatedShare, Served, served
from tests.unit.server.conftest import CONTENT


@pytest.fixture(autouse=True)
def end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "END_DELAY", 0.0)


#: Seconds; the gate of the share opens later.
SHORT_TIMEOUT = 0.05


@pytest.fixture
def with_timeout(share: GatedShare, root: Path) -> Iterator[Served]:
    """A session with a short timeout."""
    (root / "file").write_bytes(CONTENT)
    with served(share, timeout=SHORT_TIMEOUT) as session:
        yield session


def failure(reply: object) -> str:
    assert isinstance(reply, wire.StatusReply), reply
    assert reply.code is wire.Status.FAILURE
    return reply.message


async def test_a_hanging_read_ends_the_session_if_the_client_hides_errors(
    with_timeout: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    handle = await with_timeout.open(b"share/file")
    share.cold = {"read"}
    asked = [with_timeout.send(wire.encode_read, handle, 0, 10) for _ in range(50)]
    async with asyncio.timeout(TIMEOUT):
        while not with_timeout.channel.closed:
            with_timeout.channel.changed.clear()
            await with_timeout.channel.changed.wait()
    with_timeout.session.connection_lost()
    assert descriptors() == before + 1, "its number could mean another file to the read"
    share.gate.set()
    await with_timeout.pools.idle()
    assert descriptors() == before
    assert not any(with_timeout.answer(request_id) for request_id in asked)
    assert [type(failure) for failure in with_timeout.failures] == [TimeoutError]


async def test_a_file_opened_after_its_timeout_is_closed(
    with_timeout: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    share.cold = {"open_file", "open_directory"}
    failure(await with_timeout.ask(wire.encode_open, HOME + b"share/file"))
    failure(await with_timeout.ask(wire.encode_opendir, HOME + b"share"))
    share.gate.set()
    await with_timeout.pools.idle()
    assert descriptors() == before
    assert len(with_timeout.handles) == 0
    assert not with_timeout.room_taken


async def test_a_listing_that_timed_out_does_not_continue(
    with_timeout: Served, share: GatedShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await with_timeout.opendir(b"share")
    take = OpenDirectory.take_while

    def slow(directory: OpenDirectory, accept: Callable[..., bool]) -> None:
        assert share.gate.wait(60)
        take(directory, accept)

    monkeypatch.setattr(OpenDirectory, "take_while", slow)
    asked = [with_timeout.send(wire.encode_readdir, handle) for _ in range(3)]
    for reply in await with_timeout.all_answered(asked):
        failure(reply)
    share.gate.set()
    await with_timeout.pools.idle()
    failure(await with_timeout.ask(wire.encode_readdir, handle))
    assert (await with_timeout.ask(wire.encode_close, handle)).code is wire.Status.OK
    again = await with_timeout.opendir(b"share")
    names = (await with_timeout.ask(wire.encode_readdir, again)).names
    assert {name.filename for name in names} == {b".", b"..", b"file"}


async def test_a_session_ending_during_hanging_requests_leaves_nothing_open(
    with_timeout: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    handle = await with_timeout.open(b"share/file")
    share.cold = {"read", "open_file"}
    asked = [
        with_timeout.send(wire.encode_read, handle, 0, 10),
        with_timeout.send(wire.encode_open, HOME + b"share/file"),
    ]
    await share.arrivals(2)
    with_timeout.session.connection_lost()
    assert not any(with_timeout.answer(request_id) for request_id in asked)
    share.gate.set()
    await with_timeout.pools.idle()
    assert descriptors() == before
