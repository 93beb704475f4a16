"""An SFTP session without SSH: a real tree of shares, and a channel that the test controls."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sftp_gateway.observability.access_log import events
from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.server.handles import HandleTable
from sftp_gateway.server.io_pools import IoPools, Job, Pool
from sftp_gateway.server.limits.bandwidth import BandwidthLimiter
from sftp_gateway.server.limits.quotas import DescriptorAllotment, HandleOwner, Quotas
from sftp_gateway.server.limits.scheduler import Scheduler, TimeSlice
from sftp_gateway.server.packets.outgoing import OutgoingBuffer
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp.checksums import Checksums
from sftp_gateway.server.sftp.context import SessionContext
from sftp_gateway.server.sftp.owners import OwnerNames, Owners
from sftp_gateway.server.sftp.session import SftpSession
from sftp_gateway.vfs.attributes import AttributePolicy, Attributes
from sftp_gateway.vfs.files import Entry, OpenDirectory, OpenFile
from sftp_gateway.vfs.path_resolution import choose_resolver
from sftp_gateway.vfs.share import Links, Share
from sftp_gateway.vfs.tree import Tree
from tests.support import sftp_wire as wire
from tests.support.gateway import TIMEOUT
from tests.support.measured import Measured

T = TypeVar("T")

HOME = b"/home/worker/"


class GatedShare(Share):
    """A real share whose disk is slow on demand.

    What `cold` names ("read", "open_file", "open_directory", "lstat") goes to a thread and waits
    there until `gate` is set; everything else is answered at once. `failure` is raised by "lstat"
    and "read", if it is set.
    """

    def __init__(self, root: Path, name: str = "share") -> None:
        super().__init__(
            name=name,
            root=root,
            links=Links.KEEP,
            attribute_policy=AttributePolicy(),
            resolver=choose_resolver(),
        )
        self.cold: set[str] = set()
        self.gate = threading.Event()
        self.failure: Exception | None = None
        self._arrived = threading.Semaphore(0)

    def pass_gate(self, operation: str, *, wait: bool) -> None:
        if operation in self.cold:
            if not wait:
                raise BlockingIOError(errno.EAGAIN, "cold")
            self._arrived.release()
            assert self.gate.wait(TIMEOUT)
        if self.failure is not None and operation in ("lstat", "read"):
            raise self.failure

    async def arrivals(self, count: int) -> None:
        """Wait until this many (more) threads have reached the gate."""
        with ThreadPoolExecutor(1) as pool:
            for _ in range(count):
                assert await asyncio.get_running_loop().run_in_executor(
                    pool, self._arrived.acquire, True, TIMEOUT
                )

    def lstat(self, path: bytes, *, wait: bool) -> Attributes:
        self.pass_gate("lstat", wait=wait)
        return super().lstat(path, wait=True)

    def open_file(
        self, path: bytes, *, wait: bool, on_close: Callable[[], None] = lambda: None
    ) -> OpenFile:
        self.pass_gate("open_file", wait=wait)
        file = super().open_file(path, wait=True)
        return _GatedFile(
            share=self,
            descriptor=file._descriptor,
            size=file.size,
            local=file.local,
            on_close=on_close,
        )

    def open_directory(
        self,
        path: bytes,
        *,
        extra: Iterable[Entry] = (),
        wait: bool,
        on_close: Callable[[], None] = lambda: None,
    ) -> OpenDirectory:
        self.pass_gate("open_directory", wait=wait)
        return super().open_directory(path, extra=extra, wait=True, on_close=on_close)


class _GatedFile(OpenFile):
    """Its reads come to the gate where the disk would be: while they hold the descriptor."""

    __slots__ = ("_share",)

    def __init__(self, *, share: GatedShare, **options: Any) -> None:
        super().__init__(**options)
        self._share = share

    def _fill(self, descriptor: int, places: Sequence[memoryview], offset: int, flags: int) -> int:
        self._share.pass_gate("read", wait=not flags)
        return super()._fill(descriptor, places, offset, 0)


class WatchedPools(IoPools):
    """IoPools that signal when nothing is pending and all results are reported."""

    def __init__(self, shares: Sequence[str], *, timeout: float = float("inf")) -> None:
        super().__init__(shares, timeout=timeout)
        self._done = asyncio.Event()

    def submit(
        self,
        share: str,
        pool: Pool,
        work: Callable[[], T],
        done: Callable[[Job[T]], None],
        *,
        on_late_result: Callable[[T], None] = lambda result: None,
        no_timeout: bool = False,
    ) -> None:
        def reported(job: Job[T]) -> None:
            done(job)
            self._done.set()

        def come(result: T) -> None:
            on_late_result(result)
            self._done.set()

        super().submit(share, pool, work, reported, on_late_result=come, no_timeout=no_timeout)

    def close(self) -> None:
        super().close()
        for threads in self._threads.values():
            threads.join()

    async def idle(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            while any(self.depths().values()):
                self._done.clear()
                await self._done.wait()


class _RunningLoop:
    """The loop that runs when it is asked for something; fixtures are made before there is one."""

    def call_soon(self, callback: Callable[[], None]) -> object:
        return asyncio.get_running_loop().call_soon(callback)


class MemoryChannel:
    """Records what is sent. After `room` bytes it is full, like a client's window."""

    def __init__(self) -> None:
        self.session: SftpSession
        self.outgoing = OutgoingBuffer(32 * 1024)
        self.time_slice = TimeSlice(Scheduler(_RunningLoop(), clock=lambda: 0.0), self._take_turn)
        self.writes: list[bytes] = []
        self.room: int | None = None
        self.reading = True
        self.closed = False
        self.read_failed: str | None = None
        self.changed = asyncio.Event()

    @property
    def written(self) -> int:
        return sum(map(len, self.writes))

    def flush(self) -> None:
        assert not self.closed, "sent on a closed channel"
        self.writes.append(self.outgoing.tail(0))
        self.outgoing.clear()
        self.changed.set()
        if self.room is not None and self.written >= self.room:
            self.session.pause_writing()

    def wait_turn(self) -> None:
        self.time_slice.wait()

    def _take_turn(self) -> None:
        self.session.take_turn()

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def write_error(self, data: bytes) -> None:
        raise AssertionError("an SFTP session has no standard error")

    def exit(self, status: int) -> None:
        assert not self.closed, "closed a second time"
        self.closed = True
        self.changed.set()

    def close_for_read(self, message: str) -> None:
        self.read_failed = message
        self.exit(1)


class Lines:
    """A sink that records the access log's lines."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def write(self, lines: bytes) -> None:
        self.events.extend(map(json.loads, lines.splitlines()))

    def close(self) -> None:
        pass


OWNER = HandleOwner(user="worker", connection="0" * 16)


def make_quotas(max_handles: int) -> Quotas:
    """Quotas of which only the connection's limit is reachable."""
    return Quotas(
        DescriptorAllotment(connections=1, handles=10 * max_handles), max_handles=max_handles
    )


class Served:
    """A session and its client."""

    def __init__(
        self,
        shares: Sequence[Share],
        *,
        capacity: int = 1024,
        bandwidth: BandwidthLimiter | None = None,
        timeout: float = float("inf"),
        status_shares: Sequence[str] = (),
    ) -> None:
        self.lines = Lines()
        self.log = AccessLog(sinks=[self.lines], level="requests")
        self._measured = Measured()
        self.metrics = self._measured.metrics
        self.recorder = Recorder(
            session=events.Session(session="0" * 16, client_ip="192.0.2.1", client_port=1),
            log=self.log,
            metrics=self.metrics,
        )
        self.pools = WatchedPools([share.name for share in shares], timeout=timeout)
        self.quotas = make_quotas(capacity)
        self.handles = HandleTable(quotas=self.quotas, owner=OWNER)
        self.tree = Tree(user="worker", shares=shares, attribute_policy=AttributePolicy(), time=0)
        self.channel = MemoryChannel()
        self.congested = False
        self.failures: list[Exception] = []
        self.session = SftpSession(
            SessionContext(
                channel=self.channel,
                tree=self.tree,
                handles=self.handles,
                pools=self.pools,
                checksums=Checksums(self.pools),
                owners=Owners(OwnerNames()),
                recorder=self.recorder,
                log_congested=lambda: self.congested,
                virtual_statvfs=lambda tree: None,
                report_bug=self.failures.append,
                bandwidth=bandwidth,
            ),
            status_shares=status_shares,
        )
        self.channel.session = self.session
        self._client = wire.RawClient()
        self._taken = 0
        #: Every response so far.
        self.replies: list[wire.Reply] = []

    def close(self) -> None:
        self.session.connection_lost()
        self.pools.close()
        self.log.close(TIMEOUT)
        self._measured.close()

    # The client

    def feed(self, *packets: bytes) -> None:
        """Send packets in one piece."""
        self.session.data_received(b"".join(packets))

    def begin(self) -> None:
        self.feed(wire.encode_init())

    def send(self, encode: Callable[..., bytes], *values: Any) -> int:
        """Send a request; return its id."""
        request_id, packet = self._client.request(encode, *values)
        self.feed(packet)
        return request_id

    def prepare(self, encode: Callable[..., bytes], *values: Any) -> tuple[int, bytes]:
        """The id and the packet of a request to send later."""
        return self._client.request(encode, *values)

    def receive(self) -> list[wire.Reply]:
        """Decode what was written; return all replies so far."""
        writes = self.channel.writes
        for data in writes[self._taken :]:
            self.replies += self._client.receive(data)
        self._taken = len(writes)
        return self.replies

    def answer(self, request_id: int) -> wire.Reply | None:
        """The reply to a request, if any; no request has two."""
        found = [r for r in self.receive() if getattr(r, "request_id", None) == request_id]
        assert len(found) <= 1
        return found[0] if found else None

    async def answered(self, request_id: int) -> Any:
        """Wait for the reply to a request."""
        async with asyncio.timeout(TIMEOUT):
            while (reply := self.answer(request_id)) is None:
                self.channel.changed.clear()
                await self.channel.changed.wait()
        return reply

    async def all_answered(self, request_ids: Sequence[int]) -> list[Any]:
        return [await self.answered(request_id) for request_id in request_ids]

    async def ask(self, encode: Callable[..., bytes], *values: Any) -> Any:
        """Send a request and wait for its reply."""
        return await self.answered(self.send(encode, *values))

    async def open(self, path: bytes) -> bytes:
        """Open a file; return the handle."""
        reply = await self.ask(wire.encode_open, HOME + path)
        assert isinstance(reply, wire.HandleReply), reply
        return reply.handle

    async def opendir(self, path: bytes) -> bytes:
        """Open a folder; return the handle."""
        reply = await self.ask(wire.encode_opendir, HOME + path)
        assert isinstance(reply, wire.HandleReply), reply
        return reply.handle

    # What it tells

    @property
    def room_taken(self) -> int:
        """The number of handles that are open, or being opened or closed."""
        return sum(self.quotas._handles.values())

    def events(self, name: str) -> list[dict[str, Any]]:
        """The access log's lines of one kind; ends the log."""
        self.log.close(TIMEOUT)
        return [line for line in self.lines.events if line["event"] == name]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return self._measured.metric(name, **labels)


@contextmanager
def served(
    *shares: Share,
    capacity: int = 1024,
    bandwidth: BandwidthLimiter | None = None,
    timeout: float = float("inf"),
    status_shares: Sequence[str] = (),
) -> Iterator[Served]:
    """A started session, which is closed with all its handles on exit."""
    made = Served(
        shares,
        capacity=capacity,
        bandwidth=bandwidth,
        timeout=timeout,
        status_shares=status_shares,
    )
    try:
        made.begin()
        yield made
    finally:
        for share in shares:
            if isinstance(share, GatedShare):
                share.gate.set()
        made.close()
