"""What a disk does not answer in time is answered with a failure; what it says later is let go."""

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


#: Seconds; what is to be given up here waits for a gate that opens later.
SOON = 0.05


@pytest.fixture
def hurried(share: GatedShare, root: Path) -> Iterator[Served]:
    """A session whose requests wait for a disk for a moment only."""
    (root / "file").write_bytes(CONTENT)
    with served(share, timeout=SOON) as session:
        yield session


def failure(reply: object) -> str:
    assert isinstance(reply, wire.StatusReply), reply
    assert reply.code is wire.Status.FAILURE
    return reply.message


async def test_a_read_that_hangs_ends_the_session_where_a_failure_would_be_the_files_end(
    hurried: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    handle = await hurried.open(b"share/file")
    share.cold = {"read"}
    asked = [hurried.send(wire.encode_read, handle, 0, 10) for _ in range(50)]
    async with asyncio.timeout(TIMEOUT):
        while not hurried.channel.closed:
            hurried.channel.changed.clear()
            await hurried.channel.changed.wait()
    hurried.session.connection_lost()
    assert descriptors() == before + 1, "its number could mean another file to the read"
    share.gate.set()
    await hurried.pools.idle()
    assert descriptors() == before
    assert not any(hurried.answer(request_id) for request_id in asked)
    assert [type(failure) for failure in hurried.failures] == [TimeoutError]


async def test_a_file_that_is_opened_too_late_is_closed(
    hurried: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    share.cold = {"open_file", "open_directory"}
    failure(await hurried.ask(wire.encode_open, HOME + b"share/file"))
    failure(await hurried.ask(wire.encode_opendir, HOME + b"share"))
    share.gate.set()
    await hurried.pools.idle()
    assert descriptors() == before
    assert len(hurried.handles) == 0
    assert not hurried.room_taken


async def test_a_folder_that_lost_names_is_not_listed_on_as_if_it_had_not(
    hurried: Served, share: GatedShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await hurried.opendir(b"share")
    take = OpenDirectory.take_while

    def slow(directory: OpenDirectory, accept: Callable[..., bool]) -> None:
        assert share.gate.wait(60)
        take(directory, accept)

    monkeypatch.setattr(OpenDirectory, "take_while", slow)
    asked = [hurried.send(wire.encode_readdir, handle) for _ in range(3)]
    for reply in await hurried.all_answered(asked):
        failure(reply)
    share.gate.set()
    await hurried.pools.idle()
    failure(await hurried.ask(wire.encode_readdir, handle))
    assert (await hurried.ask(wire.encode_close, handle)).code is wire.Status.OK
    again = await hurried.opendir(b"share")
    names = (await hurried.ask(wire.encode_readdir, again)).names
    assert {name.filename for name in names} == {b".", b"..", b"file"}


async def test_a_session_that_ends_while_its_requests_hang_leaves_nothing_open(
    hurried: Served, share: GatedShare, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    handle = await hurried.open(b"share/file")
    share.cold = {"read", "open_file"}
    asked = [
        hurried.send(wire.encode_read, handle, 0, 10),
        hurried.send(wire.encode_open, HOME + b"share/file"),
    ]
    await share.arrivals(2)
    hurried.session.connection_lost()
    assert not any(hurried.answer(request_id) for request_id in asked)
    share.gate.set()
    await hurried.pools.idle()
    assert descriptors() == before
