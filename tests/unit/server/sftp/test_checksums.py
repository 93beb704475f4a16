"""Checksums are correct, scheduled fairly, and cached while a file is unchanged."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sftp_gateway.errors import FileSystemError
from sftp_gateway.server.io_pools import THREADS, Pool
from sftp_gateway.server.sftp.checksums import ALGORITHMS, ChecksumJob, ChecksumResult, Checksums
from sftp_gateway.server.sftp.dispatch import Operation
from sftp_gateway.vfs.files import OpenFile
from tests.support.gateway import TIMEOUT
from tests.support.session import GatedShare, WatchedPools

MIB = 1024 * 1024
BYTES = bytes(range(256)) * 40_000


@pytest.fixture
def share(tmp_path: Path) -> GatedShare:
    (tmp_path / "file").write_bytes(BYTES)
    (tmp_path / "small").write_bytes(b"small")
    return GatedShare(tmp_path)


@pytest.fixture
async def pools() -> AsyncIterator[WatchedPools]:
    made = WatchedPools(["share"])
    yield made
    made.close()


@pytest.fixture
def opened() -> list[OpenFile]:
    """The paths of opened files, in order."""
    return []


@pytest.fixture
def operation(share: GatedShare, opened: list[OpenFile]) -> Callable[[str], Operation]:
    def make(name: str = "file") -> Operation:
        def run(wait: bool) -> OpenFile:
            opened.append(share.open_file(name.encode(), wait=wait))
            return opened[-1]

        return Operation(
            run=run, finish=lambda _: None, share=share, path=b"/", discard=lambda f: f.close()
        )  # type: ignore[arg-type]

    return make


async def computed(checksums: Checksums, operation: Operation, **options: Any) -> bytes:
    result: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def done(digest: ChecksumResult | Exception) -> None:
        if isinstance(digest, Exception):
            result.set_exception(digest)
        else:
            result.set_result(digest.value)

    options = {"algorithm": "sha256", "user": "one", **options}
    checksums.start(ChecksumJob(operation=operation, done=done, **options))
    async with asyncio.timeout(TIMEOUT):
        return await result


def closed(files: Sequence[OpenFile]) -> bool:
    return all(file._closed for file in files)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_checksum_is_that_of_the_bytes(
    pools: WatchedPools, operation: Callable[..., Operation], opened: list[OpenFile], algorithm: str
) -> None:
    checksums = Checksums(pools)
    expected = hashlib.new(algorithm, BYTES).digest()
    assert await computed(checksums, operation(), algorithm=algorithm) == expected
    await pools.idle()
    assert closed(opened)


async def test_the_checksum_of_an_unchanged_file_is_cached(
    pools: WatchedPools, share: GatedShare, operation: Callable[..., Operation], tmp_path: Path
) -> None:
    checksums = Checksums(pools, clock=lambda: time.time() + 10)
    first = await computed(checksums, operation())
    share.failure = OSError("read")
    assert await computed(checksums, operation()) == first
    # Another algorithm, range or content is not cached.
    for options in ({"algorithm": "md5"}, {"offset": 1}, {"block_size": MIB}):
        with pytest.raises(OSError, match="read"):
            await computed(checksums, operation(), **options)
    os.utime(tmp_path / "file", ns=(1, 1))
    with pytest.raises(OSError, match="read"):
        await computed(checksums, operation())


async def test_the_checksum_of_a_recently_changed_file_is_not_cached(
    pools: WatchedPools, share: GatedShare, operation: Callable[..., Operation], tmp_path: Path
) -> None:
    checksums = Checksums(pools)
    await computed(checksums, operation())
    share.failure = OSError("read")
    with pytest.raises(OSError, match="read"):
        await computed(checksums, operation())


async def test_the_checksum_of_a_file_changed_meanwhile_is_not_cached(
    pools: WatchedPools, share: GatedShare, operation: Callable[..., Operation], tmp_path: Path
) -> None:
    checksums = Checksums(pools, clock=lambda: time.time() + 10)
    share.cold.add("read")
    first = asyncio.create_task(computed(checksums, operation()))
    await share.arrivals(1)
    (tmp_path / "file").write_bytes(b"x" + BYTES[1:])
    share.gate.set()
    await first
    assert await computed(checksums, operation()) == hashlib.sha256(b"x" + BYTES[1:]).digest()


async def test_a_file_truncated_meanwhile_has_no_checksum(
    pools: WatchedPools, share: GatedShare, operation: Callable[..., Operation], tmp_path: Path
) -> None:
    share.cold.add("read")
    check = asyncio.create_task(computed(Checksums(pools), operation()))
    await share.arrivals(1)
    os.truncate(tmp_path / "file", 1)
    share.gate.set()
    with pytest.raises(FileSystemError, match="shorter"):
        await check


async def test_users_take_turns(
    pools: WatchedPools, share: GatedShare, operation: Callable[..., Operation]
) -> None:
    checksums = Checksums(pools)
    share.cold.add("open_file")
    ended: list[str] = []

    async def ask(user: str, name: str) -> None:
        await computed(checksums, operation(name), user=user)
        ended.append(user)

    many = [asyncio.create_task(ask("many", "file")) for _ in range(20)]
    await share.arrivals(THREADS[Pool.CHECKSUM])
    one = asyncio.create_task(ask("one", "small"))
    await asyncio.sleep(0)
    share.gate.set()
    await one
    assert ended.count("many") <= 2 * THREADS[Pool.CHECKSUM]
    await asyncio.gather(*many)


async def test_checksum_threads_per_share_are_bounded(
    pools: WatchedPools, share: GatedShare, operation: Callable[..., Operation]
) -> None:
    checksums = Checksums(pools)
    share.cold.add("read")
    checks = [asyncio.create_task(computed(checksums, operation())) for _ in range(10)]
    await share.arrivals(THREADS[Pool.CHECKSUM])
    assert pools.depths()["share", "checksum"] == THREADS[Pool.CHECKSUM]
    assert not share._arrived.acquire(blocking=False)
    share.gate.set()
    await asyncio.gather(*checks)


async def test_a_lost_connection_stops_its_checksum(
    pools: WatchedPools,
    share: GatedShare,
    operation: Callable[..., Operation],
    opened: list[OpenFile],
) -> None:
    checksums = Checksums(pools)
    share.cold.add("read")
    checks = [
        ChecksumJob(operation=operation(), algorithm="md5", user="one", done=_never)
        for _ in range(5)
    ]
    for check in checks:
        checksums.start(check)
    await share.arrivals(THREADS[Pool.CHECKSUM])
    for check in checks:
        checksums.cancel(check)
    share.cold.clear()
    reads = len(opened)
    share.gate.set()
    await pools.idle()
    assert len(opened) == reads == THREADS[Pool.CHECKSUM]
    assert closed(opened)


def _never(digest: ChecksumResult | Exception) -> None:
    raise AssertionError("nobody is there")


async def test_a_checksum_on_a_hanging_disk_times_out_and_closes_its_file(
    share: GatedShare, operation: Callable[..., Operation], opened: list[OpenFile]
) -> None:
    pools = WatchedPools(["share"], timeout=0.05)
    checksums = Checksums(pools)
    share.cold.add("read")
    with pytest.raises(TimeoutError):
        await computed(checksums, operation())
    assert not closed(opened)
    share.gate.set()
    await pools.idle()
    assert closed(opened)
    assert await computed(checksums, operation("small")) == hashlib.sha256(b"small").digest()
    await pools.idle()
    pools.close()


async def test_checksum_threads_have_a_lower_priority(pools: WatchedPools) -> None:
    result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    pools.submit(
        "share",
        Pool.CHECKSUM,
        lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()),
        lambda future: result.set_result(future.result()),
    )
    assert await result > os.getpriority(os.PRIO_PROCESS, os.getpid())
