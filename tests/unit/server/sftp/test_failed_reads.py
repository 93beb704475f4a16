"""A failed READ is never mistaken for the end of the file."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftp_gateway.server.sftp import reads
from sftp_gateway.vfs.files import OpenDirectory
from tests.support import sftp_wire as wire
from tests.support.gateway import TIMEOUT
from tests.support.session import HOME, GatedShare, Served, served
from tests.unit.server.conftest import CONTENT

SIZE = len(CONTENT)


@pytest.fixture(autouse=True)
def end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "END_DELAY", 0.0)


@pytest.fixture
def reporting(share: GatedShare, root: Path) -> Iterator[Served]:
    """The session of a client that reports read errors."""
    (root / "file").write_bytes(CONTENT)
    with served(share, status_shares=["share"]) as session:
        yield session


async def ended(at: Served) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not at.channel.closed:
            at.channel.changed.clear()
            await at.channel.changed.wait()


@pytest.mark.parametrize("cold", [False, True])
async def test_a_failed_read_ends_the_session(at: Served, share: GatedShare, cold: bool) -> None:
    handle = await at.open(b"share/file")
    share.cold = {"read"} if cold else set()
    share.failure = OSError(errno.EIO, "an internal detail")
    share.gate.set()
    asked = [at.send(wire.encode_read, handle, offset, 10) for offset in (20, 0)]
    await ended(at)
    assert not any(at.answer(request_id) for request_id in asked)
    assert at.channel.read_failed == "Input/output error"
    assert at.failures == [share.failure]
    line, *_ = at.events("read_failed")
    assert (line["path"], line["length"]) == ("/home/worker/share/file", 10)
    assert (line["error"], line["effect"]) == ("EIO", "disconnect")
    assert line["offset"] in (0, 20)
    assert (
        at.metric("sftp_gateway_requests_total", share="share", operation="read", result="failure")
        >= 1
    )


async def test_other_requests_are_answered_before_the_session_ends(
    at: Served, share: GatedShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "END_DELAY", 1000.0)
    handle = await at.open(b"share/file")
    share.failure = OSError(errno.EIO, "no")
    failed = at.send(wire.encode_read, handle, 0, 10)
    share.failure = None
    assert (await at.ask(wire.encode_read, handle, 0, 10)).data == CONTENT[:10]
    at.session.drain()
    assert (await at.ask(wire.encode_close, handle)).code == wire.Status.OK
    assert at.answer(failed) is None
    assert not at.channel.closed


async def test_a_client_that_reports_read_errors_gets_the_status(
    reporting: Served, share: GatedShare
) -> None:
    handle = await reporting.open(b"share/file")
    share.failure = OSError(errno.ESTALE, "no")
    reply = await reporting.ask(wire.encode_read, handle, 20, 10)
    assert (reply.code, reply.message) == (wire.Status.FAILURE, "Stale file")
    share.failure = None
    assert (await reporting.ask(wire.encode_read, handle, 20, 10)).data == CONTENT[20:30]
    (line,) = reporting.events("read_failed")
    assert (line["error"], line["effect"]) == ("ESTALE", "status")


async def test_an_unknown_handle_is_rejected(at: Served) -> None:
    reply = await at.ask(wire.encode_read, b"none", 0, 10)
    assert (reply.code, reply.message) == (wire.Status.FAILURE, "Invalid handle")
    assert not at.channel.closed
    assert at.events("read_failed") == []


# Truncated files


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("offset", [SIZE // 2 - 5, SIZE // 2, SIZE - 10])
async def test_early_eof_is_a_failure(
    reporting: Served, share: GatedShare, root: Path, offset: int, cold: bool
) -> None:
    handle = await reporting.open(b"share/file")
    share.cold = {"read"} if cold else set()
    share.gate.set()
    os.truncate(root / "file", SIZE // 2)
    reply = await reporting.ask(wire.encode_read, handle, offset, 100)
    assert (reply.code, reply.message) == (
        wire.Status.FAILURE,
        "File became shorter while it was read",
    )
    (line,) = reporting.events("read_failed")
    assert line["error"] == "truncated"


async def test_early_eof_ends_the_session_of_other_clients(at: Served, root: Path) -> None:
    handle = await at.open(b"share/file")
    os.truncate(root / "file", 0)
    at.send(wire.encode_read, handle, 0, 10)
    await ended(at)
    assert at.channel.read_failed == "File became shorter while it was read"


async def test_a_file_truncated_before_open_has_its_new_end(at: Served, root: Path) -> None:
    os.truncate(root / "file", 100)
    handle = await at.open(b"share/file")
    assert len((await at.ask(wire.encode_read, handle, 90, 100)).data) == 10
    assert (await at.ask(wire.encode_read, handle, 100, 100)).code == wire.Status.EOF
    assert (await at.ask(wire.encode_read, handle, SIZE, 100)).code == wire.Status.EOF


async def test_fstat_announces_the_new_size(at: Served, root: Path) -> None:
    handle = await at.open(b"share/file")
    os.truncate(root / "file", 100)
    assert (await at.ask(wire.encode_fstat, handle)).attrs.size == 100
    assert (await at.ask(wire.encode_read, handle, 100, 100)).code == wire.Status.EOF


async def test_an_emptied_file_read_from_its_start_gives_eof(at: Served, root: Path) -> None:
    """As `tail -f` reads a log after logrotate's copytruncate; sshfs gets the size by path."""
    handle = await at.open(b"share/file")
    assert len((await at.ask(wire.encode_read, handle, SIZE - 100, 1000)).data) == 100
    os.truncate(root / "file", 0)
    with open(root / "file", "ab") as log:
        log.write(b"new\n")
    assert (await at.ask(wire.encode_lstat, HOME + b"share/file")).attrs.size == 4
    assert (await at.ask(wire.encode_read, handle, 0, 1000)).data == b"new\n"
    assert (await at.ask(wire.encode_read, handle, 4, 1000)).code == wire.Status.EOF


async def test_a_growing_file_is_read_to_its_new_end(at: Served, root: Path) -> None:
    handle = await at.open(b"share/file")
    with open(root / "file", "ab") as log:
        log.write(b"more")
    assert len((await at.ask(wire.encode_read, handle, SIZE - 4, 1000)).data) == 8
    assert (await at.ask(wire.encode_read, handle, SIZE + 4, 1000)).code == wire.Status.EOF


# Folders


async def test_a_failed_listing_does_not_continue(
    at: Served, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error, Python's scandir pretends to be exhausted."""
    handle = await at.opendir(b"share")
    monkeypatch.setattr(OpenDirectory, "take_while", _fail)
    asked = [at.send(wire.encode_readdir, handle) for _ in range(3)]
    replies = await at.all_answered(asked)
    monkeypatch.undo()
    replies.append(await at.ask(wire.encode_readdir, handle))
    for reply in replies:
        assert (reply.code, reply.message) == (wire.Status.FAILURE, "Input/output error")
    await at.ask(wire.encode_close, handle)
    (line,) = at.events("folder_listed")
    assert not line["complete"]


async def test_a_failed_scandir_fails_the_readdir(
    at: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def fail(_: object) -> None:
        threads.append(threading.current_thread())
        raise OSError(errno.ESTALE, "of the disk")

    monkeypatch.setattr(os, "scandir", fail)
    handle = await at.opendir(b"share")
    for _ in range(2):
        reply = await at.ask(wire.encode_readdir, handle)
        assert reply.code == wire.Status.FAILURE
    await at.ask(wire.encode_close, handle)
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()
    (line,) = at.events("folder_listed")
    assert not line["complete"]


async def test_an_entry_whose_lstat_fails_is_listed_without_a_type(
    at: Served, share: GatedShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sshfs then requests the attributes; otherwise it would show an empty file."""
    handle = await at.opendir(b"share")
    monkeypatch.setattr(type(share._attribute_policy), "show", _fail)
    reply = await at.ask(wire.encode_readdir, handle)
    (entry,) = [name for name in reply.names if name.filename == b"file"]
    assert entry.attrs.permissions == 0


def _fail(*_: object) -> None:
    raise OSError(errno.EIO, "no")
