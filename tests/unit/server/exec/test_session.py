"""Commands wait like SFTP sessions, and release everything when the client leaves."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sftp_gateway.observability.access_log import events
from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.server.exec import session as command_session
from sftp_gateway.server.exec.command_line import Checksum, ScpSink, ScpSource, parse
from sftp_gateway.server.exec.programs import program
from sftp_gateway.server.exec.session import CommandSession
from sftp_gateway.server.handles import HandleTable
from sftp_gateway.server.limits.bandwidth import BandwidthLimiter
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp.checksums import Checksums
from sftp_gateway.server.sftp.context import SessionContext
from sftp_gateway.server.sftp.owners import OwnerNames, Owners
from sftp_gateway.vfs.attributes import AttributePolicy
from sftp_gateway.vfs.tree import Tree
from tests.support.gateway import TIMEOUT
from tests.support.measured import Measured
from tests.support.session import (
    OWNER,
    GatedShare,
    Lines,
    MemoryChannel,
    WatchedPools,
    make_quotas,
)

BIG = bytes(range(256)) * 12_000


class _Channel(MemoryChannel):
    def __init__(self) -> None:
        super().__init__()
        self.errors = b""
        self.status: int | None = None

    def write_error(self, data: bytes) -> None:
        self.errors += data

    def exit(self, status: int) -> None:
        super().exit(status)
        self.status = status


class Run:
    """A running command and its client."""

    def __init__(
        self,
        share: GatedShare,
        *,
        capacity: int = 100,
        bandwidth: BandwidthLimiter | None = None,
        timeout: float = float("inf"),
    ) -> None:
        self._lines = Lines()
        self.log = AccessLog(sinks=[self._lines], level="files")
        self._measured = Measured()
        self.pools = WatchedPools([share.name], timeout=timeout)
        self.quotas = make_quotas(capacity)
        self.handles = HandleTable(quotas=self.quotas, owner=OWNER)
        self.channel = _Channel()
        self.congested = False
        self.failures: list[Exception] = []
        recorder = Recorder(
            session=events.Session(session="0" * 16, client_ip="192.0.2.1", client_port=1),
            log=self.log,
            metrics=self._measured.metrics,
        )
        tree = Tree(user="worker", shares=[share], attribute_policy=AttributePolicy(), time=0)
        self.session = CommandSession(
            SessionContext(
                channel=self.channel,
                tree=tree,
                handles=self.handles,
                pools=self.pools,
                checksums=Checksums(self.pools),
                owners=Owners(OwnerNames()),
                recorder=recorder,
                log_congested=lambda: self.congested,
                virtual_statvfs=lambda tree: None,
                report_bug=self.failures.append,
                bandwidth=bandwidth,
            ),
        )
        self.channel.session = self.session  # type: ignore[assignment]

    def start(self, command: str) -> None:
        parsed = parse(command)
        assert isinstance(parsed, ScpSource | ScpSink | Checksum)
        self.session.start(program(self.session, parsed))

    @property
    def sent(self) -> bytes:
        return b"".join(self.channel.writes)

    async def wait(self, length: int | None = None) -> None:
        """Wait until this much was sent or the command has ended."""
        async with asyncio.timeout(TIMEOUT):
            while not (self.channel.closed or len(self.sent) >= (length or 1 << 60)):
                self.channel.changed.clear()
                await self.channel.changed.wait()

    def events(self, name: str) -> list[dict[str, object]]:
        self.log.close(TIMEOUT)
        return [event for event in self._lines.events if event["event"] == name]

    def close(self) -> None:
        self.session.connection_lost()
        self.pools.close()
        self.log.close(TIMEOUT)
        self._measured.close()


@pytest.fixture
def share(tmp_path: Path) -> GatedShare:
    (tmp_path / "big").write_bytes(BIG)
    (tmp_path / "folder/below").mkdir(parents=True)
    (tmp_path / "folder/below/file").write_bytes(b"small\n")
    return GatedShare(tmp_path)


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    made: list[Run] = []
    yield made
    for run in made:
        run.close()


async def begun(runs: list[Run], run: Run, command: str = "scp -f share/big") -> Run:
    runs.append(run)
    run.start(command)
    run.session.data_received(b"\0\0\0")
    return run


LINE = b"C0644 %d big\n" % len(BIG)


async def test_a_file_is_sent_as_scp_sends_it(share: GatedShare, runs: list[Run]) -> None:
    run = await begun(runs, Run(share))
    await run.wait()
    assert (run.sent, run.channel.status, run.channel.errors) == (LINE + BIG + b"\0", 0, b"")
    [closed] = run.events("file_closed")
    assert (closed["bytes"], closed["whole"]) == (len(BIG), True)
    assert run.failures == []


async def test_it_waits_while_the_client_reads_nothing(share: GatedShare, runs: list[Run]) -> None:
    run = Run(share)
    run.channel.room = 600_000
    await begun(runs, run)
    await run.wait(600_000)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(run.sent) < 600_000 + 300_000
    run.channel.room = None
    run.session.resume_writing()
    await run.wait()
    assert run.sent == LINE + BIG + b"\0"


async def test_it_waits_while_the_access_log_has_no_room(
    share: GatedShare, runs: list[Run]
) -> None:
    run = Run(share)
    run.congested = True
    await begun(runs, run)
    await asyncio.sleep(0)
    assert run.sent == b""
    assert not len(run.handles)
    run.congested = False
    run.session.pump()
    await run.wait()
    assert run.channel.status == 0


async def test_it_waits_for_its_users_bandwidth(share: GatedShare, runs: list[Run]) -> None:
    now = [0.0]
    bandwidth = BandwidthLimiter(1_000_000, clock=lambda: now[0])
    run = await begun(runs, Run(share, bandwidth=bandwidth))
    await run.wait(1_000_000)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(run.sent) < 1_000_000 + 300_000
    while not run.channel.closed:
        now[0] += 10
        await run.wait(len(run.sent) + 1)
    assert run.sent == LINE + BIG + b"\0"


async def test_a_turn_is_bounded(share: GatedShare, runs: list[Run]) -> None:
    run = await begun(runs, Run(share))
    assert 512 * 1024 <= len(run.sent) <= 1024 * 1024
    await run.wait()
    assert run.channel.status == 0


@pytest.mark.parametrize("cold", ["open_file", "read"])
async def test_a_slow_disk_is_waited_for_on_a_thread(
    share: GatedShare, runs: list[Run], cold: str
) -> None:
    share.cold.add(cold)
    run = await begun(runs, Run(share))
    await share.arrivals(1)
    assert run.session.busy
    share.gate.set()
    await run.wait()
    assert run.sent == LINE + BIG + b"\0"


@pytest.mark.parametrize("cold", ["open_file", "read"])
async def test_a_disk_that_hangs_fails_the_command(
    share: GatedShare, runs: list[Run], cold: str
) -> None:
    share.cold.add(cold)
    run = await begun(runs, Run(share, timeout=0.05))
    await run.wait()
    told = run.sent + run.channel.errors
    assert run.channel.status == 1
    assert told.endswith(b"scp: share/big: The disk does not answer\n")
    share.gate.set()
    await run.pools.idle()
    assert run.quotas._handles == {}


@pytest.mark.parametrize("cold", ["open_file", "open_directory", "read"])
async def test_everything_is_closed_when_the_client_leaves(
    share: GatedShare, runs: list[Run], cold: str
) -> None:
    share.cold.add(cold)
    run = Run(share)
    await begun(
        runs, run, "scp -r -f share/folder" if cold == "open_directory" else "scp -f share/big"
    )
    await share.arrivals(1)
    run.session.connection_lost()
    assert run.session.released
    share.gate.set()
    await run.pools.idle()
    assert run.quotas._handles == {}
    assert run.failures == []


async def test_folders_are_closed_when_the_client_leaves(
    share: GatedShare, runs: list[Run]
) -> None:
    run = Run(share)
    runs.append(run)
    run.start("scp -r -f share/folder")
    run.session.data_received(b"\0\0\0")
    await run.wait(len(b"D0755 0 folder\nD0755 0 below\n"))
    assert len(run.handles) >= 2
    run.session.connection_lost()
    await run.pools.idle()
    assert run.quotas._handles == {}
    assert len(run.events("folder_listed")) == 2


async def test_a_refused_file_is_skipped_and_an_abort_ends_the_copy(
    share: GatedShare, runs: list[Run]
) -> None:
    for reply, more in ((b"\1no\n", True), (b"\2no\n", False), (b"odd\n", False)):
        run = Run(share)
        runs.append(run)
        run.start("scp -f share/big share/folder/below/file")
        run.session.data_received(b"\0" + reply + b"\0\0")
        await run.wait()
        assert run.channel.status == 1
        assert run.sent == LINE + (b"C0644 6 file\nsmall\n\0" if more else b"")


@pytest.mark.parametrize("input", [b"", b"\0", b"\0\1" + b"x" * 5_000])
async def test_a_client_without_a_valid_reply_ends_the_command(
    share: GatedShare, runs: list[Run], input: bytes
) -> None:
    run = Run(share)
    runs.append(run)
    run.start("scp -f share/big")
    run.session.data_received(input)
    if len(input) < 10:
        assert not run.channel.closed
        assert not run.session.busy
        run.session.eof_received()
    assert run.channel.status == 1
    assert run.quotas._handles == {}


async def test_a_connection_over_its_quota_fails_the_command(
    share: GatedShare, runs: list[Run]
) -> None:
    run = await begun(runs, Run(share, capacity=1), "scp -r -f share/folder")
    run.session.data_received(b"\0\0")
    await run.wait()
    assert run.channel.status == 1
    assert b"\1scp: share/folder/below: Too many open handles\n" in run.sent
    assert [event["reason"] for event in run.events("denied")] == ["too_many_handles"]


async def test_an_incomplete_listing_fails_the_copy(
    share: GatedShare, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = iter([command_session._page])

    def page(*arguments: Any) -> Any:
        if (read := next(pages, None)) is None:
            raise OSError(errno.EIO, "names are lost")
        return read(*arguments)

    monkeypatch.setattr(command_session, "_page", page)
    run = await begun(runs, Run(share), "scp -r -f share/folder/below")
    run.session.data_received(b"\0\0")
    await run.wait()
    assert run.channel.status == 1
    assert run.sent == (
        b"D0755 0 below\nC0644 6 file\nsmall\n\0\1scp: share/folder/below: Input/output error\nE\n"
    )
    [listed] = run.events("folder_listed")
    assert (listed["entries"], listed["complete"]) == (1, False)


@pytest.mark.parametrize(("time", "shown"), [(-5, 0), (2**33, 2**33)])
async def test_times_are_sent_as_scp_reads_them(
    share: GatedShare, runs: list[Run], tmp_path: Path, time: int, shown: int
) -> None:
    os.utime(tmp_path / "folder/below/file", (time, time))
    run = await begun(runs, Run(share), "scp -p -f share/folder/below/file")
    run.session.data_received(b"\0")
    await run.wait()
    assert run.channel.status == 0
    assert run.sent == b"T%d 0 %d 0\nC0644 6 file\nsmall\n\0" % (shown, shown)


async def test_a_stop_ends_the_command_with_an_error(share: GatedShare, runs: list[Run]) -> None:
    run = Run(share)
    runs.append(run)
    run.start("scp -f share/big")
    run.session.drain()
    assert not run.channel.closed
    run.session.finish()
    assert (run.channel.status, run.channel.errors) == (
        1,
        b"sftp-gateway: the server is stopping\n",
    )
    assert run.session.released


async def test_wildcards_are_bounded(share: GatedShare, runs: list[Run], tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(4097):
        (folder / f"{number}").touch()
    run = Run(share)
    runs.append(run)
    run.start("md5sum share/many/*")
    await run.wait()
    assert (run.channel.status, run.sent) == (1, b"")
    assert run.channel.errors == b"md5sum: Argument list too long\n"
