"""The monitor reports unreadable shares and sums up their file systems."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sftp_gateway.errors import NotFound
from sftp_gateway.server import health
from sftp_gateway.server import io_pools as io_pools_module
from sftp_gateway.server.health import DiskErrors, ShareMonitor
from sftp_gateway.server.io_pools import IoPools, Pool
from sftp_gateway.vfs.attributes import AttributePolicy
from sftp_gateway.vfs.path_resolution import choose_resolver
from sftp_gateway.vfs.share import Links, Share
from sftp_gateway.vfs.tree import Tree
from tests.support.gateway import TIMEOUT
from tests.support.session import WatchedPools


class WatchedShare(Share):
    """A real share; a look at it waits for `gate`, and finds `figures` where they are set."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(
            name=name,
            root=root,
            links=Links.KEEP,
            attribute_policy=AttributePolicy(),
            resolver=choose_resolver(),
        )
        self.gate = threading.Event()
        self.gate.set()
        self.looks = 0
        self.figures: tuple[int, ...] | None = None
        self.refused = False

    def check(self) -> os.statvfs_result:
        self.looks += 1
        assert self.gate.wait(TIMEOUT)
        if self.refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        found = super().check()
        return found if self.figures is None else os.statvfs_result(self.figures)


Make = Callable[[str, Path], WatchedShare]


class Reports:
    """Reports of the monitor, in order."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    def add(self, name: str, up: bool) -> None:
        self._queue.put_nowait((name, up))

    async def next(self) -> tuple[str, bool]:
        async with asyncio.timeout(TIMEOUT):
            return await self._queue.get()

    def of(self, name: str) -> list[bool]:
        """The state of a share; may be called once."""
        reports = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        return [up for share, up in reports if share == name]


@pytest.fixture
def make() -> Iterator[Make]:
    shares: list[WatchedShare] = []

    def watched(name: str, parent: Path) -> WatchedShare:
        (parent / name).mkdir()
        shares.append(WatchedShare(parent / name, name))
        return shares[-1]

    yield watched
    for share in shares:
        share.gate.set()
        share.close()


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    """A folder on a different file system from tmp_path's."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def monitor(reports: Reports) -> Iterator[Callable[..., ShareMonitor]]:
    all_pools: list[WatchedPools] = []
    all_shares: list[WatchedShare] = []

    def watch(*shares: WatchedShare) -> ShareMonitor:
        all_pools.append(WatchedPools([share.name for share in shares]))
        all_shares.extend(shares)
        return ShareMonitor(
            shares=shares,
            pools=all_pools[-1],
            errors=DiskErrors(count=lambda *_: None),
            probed=reports.add,
            unreadable=lambda path: f"{path} is closed",
        )

    yield watch
    for share in all_shares:
        share.gate.set()
    for pools in all_pools:
        pools.close()


def tree(*shares: Share) -> Tree:
    return Tree(user="u", shares=shares, attribute_policy=AttributePolicy(), time=0)


# States


async def test_no_share_is_healthy_before_the_first_probe(
    make: Make, monitor: Callable[..., ShareMonitor], tmp_path: Path, reports: Reports
) -> None:
    share = make("a", tmp_path)
    watching = monitor(share)
    assert all(watching.problems.values())
    assert watching.statvfs_of(tree(share)) is None
    assert reports.of("a") == []


async def test_a_share_that_can_be_read_has_no_problem(
    make: Make, monitor: Callable[..., ShareMonitor], tmp_path: Path, reports: Reports
) -> None:
    watching = monitor(make("a", tmp_path), make("b", tmp_path))
    await watching.probe()
    assert watching.problems == {"a": "", "b": ""}
    assert {await reports.next(), await reports.next()} == {("a", True), ("b", True)}


async def test_a_share_whose_folder_is_gone_is_reported_until_it_is_back(
    make: Make, monitor: Callable[..., ShareMonitor], tmp_path: Path, reports: Reports
) -> None:
    watching = monitor(make("a", tmp_path), make("b", tmp_path))
    await watching.probe()
    (tmp_path / "a").rename(tmp_path / "away")
    await watching.probe()
    assert watching.problems == {"a": os.strerror(errno.ENOENT), "b": ""}
    (tmp_path / "away").rename(tmp_path / "a")
    await watching.probe()
    assert watching.problems == {"a": "", "b": ""}
    assert reports.of("a") == [True, False, True]


async def test_the_problem_of_an_unreadable_share_is_explained(
    make: Make, monitor: Callable[..., ShareMonitor], tmp_path: Path
) -> None:
    share = make("a", tmp_path)
    watching = monitor(share)
    share.refused = True
    await watching.probe()
    assert watching.problems == {"a": f"{tmp_path}/a is closed"}
    # A share denied to this worker by Landlock only is not the owner's problem.
    share.moved = True
    await watching.probe()
    assert watching.problems == {"a": os.strerror(errno.EACCES)}


async def test_another_folder_at_a_shares_path_is_served(
    make: Make, monitor: Callable[..., ShareMonitor], tmp_path: Path
) -> None:
    share = make("a", tmp_path)
    watching = monitor(share)
    (tmp_path / "a").rename(tmp_path / "old")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "new").touch()
    await watching.probe()
    assert share.lstat(b"new", wait=True)


async def test_problems_cannot_be_modified_by_the_caller(
    make: Make, monitor: Callable[..., ShareMonitor], tmp_path: Path
) -> None:
    watching = monitor(make("a", tmp_path))
    watching.problems.clear()
    assert list(watching.problems) == ["a"]


async def test_a_hanging_share_is_reported_and_blocks_one_thread(
    make: Make,
    monitor: Callable[..., ShareMonitor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share = make("a", tmp_path)
    watching = monitor(share)
    share.gate.clear()
    monkeypatch.setattr(health, "PROBE_TIMEOUT", 0.01)
    for _ in range(5):
        await watching.probe()
        assert watching.problems == {"a": "its disk does not answer"}
    assert share.looks == 1
    share.gate.set()
    monkeypatch.setattr(health, "PROBE_TIMEOUT", TIMEOUT)
    await watching.probe()
    assert watching.problems == {"a": ""}
    await watching.probe()
    assert watching.problems == {"a": ""}
    assert watching.statvfs_of(tree(share)) is not None


async def test_a_late_error_is_found_by_the_next_probe(
    make: Make,
    monitor: Callable[..., ShareMonitor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share = make("a", tmp_path)
    watching = monitor(share)
    share.gate.clear()
    monkeypatch.setattr(health, "PROBE_TIMEOUT", 0.01)
    await watching.probe()
    (tmp_path / "a").rmdir()
    share.gate.set()
    monkeypatch.setattr(health, "PROBE_TIMEOUT", TIMEOUT)
    await watching.probe()
    assert watching.problems == {"a": os.strerror(errno.ENOENT)}


async def test_a_hanging_share_does_not_delay_other_probes(
    make: Make,
    monitor: Callable[..., ShareMonitor],
    tmp_path: Path,
    reports: Reports,
) -> None:
    hanging, good = make("a", tmp_path), make("b", tmp_path)
    hanging.gate.clear()
    watching = monitor(hanging, good)
    looking = asyncio.create_task(watching.probe())
    assert await reports.next() == ("b", True)
    assert not looking.done()
    hanging.gate.set()
    await looking
    assert watching.problems == {"a": "", "b": ""}


async def test_the_monitor_probes_until_it_is_cancelled(
    make: Make,
    monitor: Callable[..., ShareMonitor],
    tmp_path: Path,
    reports: Reports,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "PROBE_INTERVAL", 0.0)
    running = asyncio.create_task(monitor(make("a", tmp_path)).run())
    for _ in range(3):
        assert await reports.next() == ("a", True)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert running.cancelled()


# Totals

#: f_bsize, f_frsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_favail, f_flag, f_namemax;
#: without an f_fsid, as on FUSE and NFS.
SMALL = (4096, 4096, 100, 50, 40, 10, 5, 4, 0, 255)
LARGE = (65536, 65536, 1000, 500, 400, 100, 50, 40, 0, 143)


async def test_one_file_system_is_counted_once(
    make: Make, monitor: Callable[..., ShareMonitor], tmp_path: Path
) -> None:
    shares = [make(name, tmp_path) for name in "abc"]
    watching = monitor(*shares)
    shares[0].figures = shares[1].figures = shares[2].figures = SMALL
    await watching.probe()
    reports = watching.statvfs_of(tree(*shares))
    assert reports is not None
    assert (reports.f_blocks, reports.f_bfree, reports.f_bavail) == (100, 50, 40)
    assert (reports.f_files, reports.f_ffree, reports.f_favail) == (10, 5, 4)


async def test_two_file_systems_are_summed_in_blocks_of_one_size(
    make: Make, monitor: Callable[..., ShareMonitor], tmp_path: Path, tmpfs: Path
) -> None:
    small, large = make("a", tmp_path), make("b", tmpfs)
    watching = monitor(small, large)
    small.figures, large.figures = SMALL, LARGE
    await watching.probe()
    reports = watching.statvfs_of(tree(small, large))
    assert reports is not None
    assert reports == os.statvfs_result((4096, 4096, 16_100, 8_050, 6_440, 110, 55, 44, 0, 143, 0))
    assert reports.f_fsid == 0
    alone = watching.statvfs_of(tree(large))
    assert alone is not None
    assert alone.f_blocks == 16_000


async def test_the_sum_covers_the_users_shares(
    make: Make, monitor: Callable[..., ShareMonitor], tmp_path: Path, tmpfs: Path
) -> None:
    mine, other = make("a", tmp_path), make("b", tmpfs)
    watching = monitor(mine, other)
    await watching.probe()
    reports, real = watching.statvfs_of(tree(mine)), os.statvfs(tmp_path)
    assert reports is not None
    assert reports.f_blocks * reports.f_frsize == real.f_blocks * real.f_frsize
    assert watching.statvfs_of(tree()) is None


async def test_a_hanging_share_keeps_its_last_figures(
    make: Make,
    monitor: Callable[..., ShareMonitor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share = make("a", tmp_path)
    watching = monitor(share)
    await watching.probe()
    before = watching.statvfs_of(tree(share))
    assert before is not None
    share.gate.clear()
    monkeypatch.setattr(health, "PROBE_TIMEOUT", 0.01)
    await watching.probe()
    assert watching.statvfs_of(tree(share)) == before


# Problems found by requests


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counted() -> list[tuple[str, str, str]]:
    return []


@pytest.fixture
def errors(clock: Clock, counted: list[tuple[str, str, str]]) -> DiskErrors:
    return DiskErrors(count=lambda *error: counted.append(error), clock=clock)


def io_error() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_read_that_fails_is_a_problem_until_one_succeeds(
    errors: DiskErrors, counted: list[tuple[str, str, str]]
) -> None:
    errors.record("a", Pool.READ, io_error())
    assert errors.problem("a") == "reads fail: Input/output error"
    assert errors.problem("b") == ""
    for share, pool in (("a", Pool.METADATA), ("b", Pool.READ)):
        errors.record(share, pool, None)
    errors.probe_succeeded("a")
    assert errors.problem("a")
    errors.record("a", Pool.READ, None)
    assert errors.problem("a") == ""
    assert counted == [("a", "read", "EIO")]


def test_a_read_that_fails_is_forgotten_after_a_minute(errors: DiskErrors, clock: Clock) -> None:
    errors.record("a", Pool.READ, io_error())
    clock.now = 59.0
    assert errors.problem("a")
    clock.now = 60.0
    assert errors.problem("a") == ""


def test_a_failed_request_is_a_problem_until_a_probe_succeeds(errors: DiskErrors) -> None:
    errors.record("a", Pool.METADATA, OSError(errno.ESTALE, ""))
    assert errors.problem("a") == "requests fail: Stale file handle"
    errors.probe_succeeded("a")
    assert errors.problem("a") == ""


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOENT, ""), OSError(errno.EMFILE, ""), OSError("stopping"), NotFound("")],
)
def test_errors_of_requests_are_not_problems(
    errors: DiskErrors, counted: list[tuple[str, str, str]], error: Exception
) -> None:
    errors.record("a", Pool.METADATA, error)
    assert (errors.problem("a"), counted) == ("", [])


async def test_hanging_reads_are_a_problem_until_they_are_answered(
    make: Make, reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_pools_module, "HANG_SECONDS", 0.0)
    share = make("a", tmp_path)
    pools = IoPools(["a"])
    watching = ShareMonitor(
        shares=[share],
        pools=pools,
        errors=DiskErrors(count=lambda *_: None),
        probed=reports.add,
        unreadable=str,
    )
    await watching.probe()
    started, gate = threading.Barrier(3), threading.Event()

    def read() -> None:
        started.wait(TIMEOUT)
        gate.wait(TIMEOUT)

    answered: asyncio.Queue[object] = asyncio.Queue()
    for _ in range(2):
        pools.submit("a", Pool.READ, read, answered.put_nowait)
    await asyncio.to_thread(started.wait, TIMEOUT)
    assert watching.problems == {"a": "reads hang: 2 threads"}
    gate.set()
    for _ in range(2):
        await answered.get()
    assert watching.problems == {"a": ""}
    pools.close()


async def test_a_remount_of_a_hanging_share_is_noticed(
    make: Make,
    monitor: Callable[..., ShareMonitor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share = make("a", tmp_path)
    watching = monitor(share)
    await watching.probe()
    share.gate.clear()
    monkeypatch.setattr(health, "PROBE_TIMEOUT", 0.01)
    mounts = iter([False, True])
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def left_behind() -> bool:
        loop.call_soon_threadsafe(asked.set)
        return next(mounts)

    monkeypatch.setattr(share, "left_behind", left_behind)
    for expected in (set(), {"a"}):
        asked.clear()
        await watching.probe()
        async with asyncio.timeout(TIMEOUT):
            await asked.wait()
            while watching.remounted != expected:
                await asyncio.sleep(0)
        assert watching.remounted == expected
