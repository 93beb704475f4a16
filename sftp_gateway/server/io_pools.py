"""Thread pools for file operations that may wait for a disk, by share and kind of work.

A share whose disk hangs blocks only its own pools, and its reads leave its metadata pool free, so
folders can be listed while big files are read slowly.

Work that is not done in time is abandoned: its caller gets a TimeoutError, and a result that comes
later is disposed of. The thread stays blocked until the kernel releases it. While all threads of a
pool are blocked like that, new work is abandoned at once. All work has the same timeout, so the
oldest is always the next to expire, and one timer serves all pools.

Callers get what is done in the order in which it was done, for at most TURN seconds in each turn of
the event loop: clients that keep all threads busy do not delay the others.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar, cast

from sftp_gateway.server.limits.scheduler import serve_queue

T = TypeVar("T")


class Pool(StrEnum):
    """The kinds of work with pools of their own. The values are labels of metrics."""

    READ = "read"
    METADATA = "metadata"
    CHECKSUM = "checksum"
    #: The gateway's own probes of shares (health.py), which clients must not delay.
    PROBE = "look"


#: Threads of each share. They start when first needed; an idle one costs a few KiB.
THREADS: Final = {Pool.READ: 16, Pool.METADATA: 8, Pool.CHECKSUM: 2, Pool.PROBE: 2}

#: The niceness (nice(1)) of threads that compute.
_NICE: Final = 10

#: Seconds after which work counts as hanging, whether it is abandoned then or not.
HANG_SECONDS: Final = 10.0


class Job(Generic[T]):
    """Submitted work; its caller gets it back with the result or the error."""

    __slots__ = (
        "__weakref__",
        "_result",
        "abandoned",
        "cancelled",
        "deliver",
        "error",
        "executed",
        "key",
        "no_timeout",
        "on_late_result",
        "running",
        "started",
        "stuck",
        "work",
    )

    def __init__(
        self,
        key: tuple[str, Pool],
        work: Callable[[], T],
        deliver: Callable[[Job[T]], None],
        on_late_result: Callable[[T], None],
        *,
        no_timeout: bool,
        started: float,
    ) -> None:
        """`started` is in the event loop's time."""
        self.key = key
        self.work = work
        self.deliver = deliver
        self.on_late_result = on_late_result
        self.no_timeout = no_timeout
        self.started = started
        #: Whether a thread has begun and ended it.
        self.running = self.executed = False
        #: Whether its caller already got a TimeoutError, and whether it keeps a thread blocked.
        self.abandoned = self.stuck = False
        #: Whether no thread may begin it any more: it was abandoned, or the pools were closed.
        self.cancelled = False
        self.error: Exception | None = None
        self._result: T | None = None

    def execute(self) -> None:
        """Do the work; on a thread."""
        try:
            self._result = self.work()
        except Exception as error:
            # Without this frame, which has the job: that would be a reference cycle.
            self.error = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        except BaseException as error:
            self.error = OSError(str(error))
        self.executed = True

    def result(self) -> T:
        """What the work returned; raises what it raised."""
        if self.error is not None:
            raise self.error
        return cast(T, self._result)


class _Threads:
    """The threads of one pool. `done` is called with each executed job, on its thread.

    A ThreadPoolExecutor and its futures would make 25 objects for each job. A garbage collection
    that finds those of thousands of waiting requests stops all clients for 10 ms.
    """

    def __init__(
        self,
        name: str,
        most: int,
        done: Callable[[Job[Any]], None],
        *,
        initialize: Callable[[], None] | None = None,
    ) -> None:
        self._name = name
        self._most = most
        self._done = done
        self._initialize = initialize
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, job: Job[Any], *, depth: int) -> None:
        """Have a thread execute `job`; with it, `depth` jobs are not done."""
        if self._closed:
            raise RuntimeError("the pools are closed")
        if len(self._threads) < min(depth, self._most):
            self._start_thread()
        self._jobs.put(job)

    def _start_thread(self) -> None:
        name = f"{self._name}_{len(self._threads)}"
        thread = threading.Thread(target=self._execute_jobs, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system allows no more; those that there are will do
            if not self._threads:
                raise
        else:
            self._threads.append(thread)

    def withdraw(self, job: Job[Any]) -> bool:
        """Have no thread begin `job`; returns False if one has."""
        with self._lock:
            job.cancelled = not job.running
        return job.cancelled

    def close(self) -> Iterable[Job[Any]]:
        """Begin no more jobs; returns those that were not begun."""
        self._closed = True
        withdrawn = []
        with suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None and not job.cancelled and self.withdraw(job):
                    withdrawn.append(job)
        for _ in self._threads:
            self._jobs.put(None)
        return withdrawn

    def join(self) -> None:
        """Wait for the threads to end, after `close`."""
        for thread in self._threads:
            thread.join()

    def _execute_jobs(self) -> None:
        if self._initialize is not None:
            self._initialize()
        while (job := self._jobs.get()) is not None:
            with self._lock:
                job.running = not job.cancelled
            if job.running:
                job.execute()
                self._done(job)
            del job  # before it waits: its result may be big


class IoPools:
    """The pools of all shares. Used on the event loop."""

    def __init__(
        self,
        shares: Iterable[str],
        *,
        timeout: float = float("inf"),
        on_done: Callable[[str, Pool, Exception | None], None] = lambda share, pool, error: None,
    ) -> None:
        """`timeout`: seconds after which work is abandoned.

        `on_done` gets the error, or None, of each piece of work that is done or abandoned.
        """
        self._threads = {
            (share, pool): _Threads(
                f"{share} {pool}",
                THREADS[pool],
                self._queue,
                initialize=lower_priority if pool is Pool.CHECKSUM else None,
            )
            for share in shares
            for pool in Pool
        }
        self._depth = dict.fromkeys(self._threads, 0)
        self._timeout = timeout
        self._on_done = on_done
        #: Jobs that are neither done nor abandoned, the oldest first.
        self._jobs: dict[Job[Any], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Jobs that are done, until their callers get them; threads append to it.
        self._executed: deque[Job[Any]] = deque()
        self._delivery_scheduled = False
        #: Threads that are blocked for longer than `timeout`.
        self._stuck = dict.fromkeys(self._threads, 0)

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
        """Run `work` on a thread of the pool; then call `done` on the event loop.

        `done` gets a job with the result or the error, which is TimeoutError for abandoned work. A
        result that comes after that goes to `on_late_result`. Work with `no_timeout` is never
        abandoned; the caller bounds how much of it there is.
        """
        key = (share, pool)
        loop = self._loop = asyncio.get_running_loop()
        job = Job(key, work, done, on_late_result, no_timeout=no_timeout, started=loop.time())
        if self._stuck[key] >= THREADS[pool] and not no_timeout:
            self._report_abandoned(job)
            return
        self._threads[key].submit(job, depth=self._depth[key] + 1)
        self._depth[key] += 1
        self._jobs[job] = None
        if self._timer is None and self._timeout != float("inf"):
            self._timer = loop.call_at(job.started + self._timeout, self._abandon_overdue)

    def close_later(self, share: str, close: Callable[[], None]) -> None:
        """Have a thread call `close`: on FUSE, close(2) waits for the file system."""
        with suppress(RuntimeError):  # the pools are closed, and the process ends
            self.submit(share, Pool.METADATA, close, lambda job: None, no_timeout=True)

    def _queue(self, job: Job[Any]) -> None:
        """Have `job` delivered; on any thread."""
        self._executed.append(job)
        self._schedule_delivery()

    def _schedule_delivery(self) -> None:
        # Two threads may both schedule one, of which the second finds nothing.
        if not self._delivery_scheduled and self._loop is not None:
            self._delivery_scheduled = True
            with suppress(RuntimeError):  # the loop is closed, and the process ends
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._delivery_scheduled = False  # first: what is appended from now on is scheduled again
        try:
            serve_queue(self._executed, self._finish)
        finally:
            if self._executed:
                self._schedule_delivery()

    def _finish(self, job: Job[Any]) -> None:
        self._depth[job.key] -= 1
        self._jobs.pop(job, None)
        self._stuck[job.key] -= job.stuck
        deliver, on_late_result = job.deliver, job.on_late_result
        # Whoever keeps the job is often part of them: that would be a reference cycle.
        del job.work, job.deliver, job.on_late_result
        if not job.abandoned:
            self._on_done(*job.key, job.error)
            deliver(job)
        elif job.executed and job.error is None:
            on_late_result(job.result())

    def _abandon_overdue(self) -> None:
        """Abandon the jobs that are due, and set the timer for the next."""
        loop = asyncio.get_running_loop()
        while self._jobs:
            job = next(iter(self._jobs))
            deadline = job.started + self._timeout
            if deadline > loop.time():
                self._timer = loop.call_at(deadline, self._abandon_overdue)
                return
            del self._jobs[job]
            self._abandon(job)
        self._timer = None

    def _abandon(self, job: Job[Any]) -> None:
        if job.executed:  # `_finish` follows
            return
        job.stuck = job.no_timeout or not self._threads[job.key].withdraw(job)
        self._stuck[job.key] += job.stuck
        if not job.stuck:
            self._queue(job)
        if not job.no_timeout:
            job.abandoned = True
            self._report_abandoned(job)

    def _report_abandoned(self, job: Job[Any]) -> None:
        """Deliver a TimeoutError in place of the result."""
        report = Job(
            job.key, job.work, job.deliver, job.on_late_result, no_timeout=False, started=0
        )
        report.error = TimeoutError(errno.ETIMEDOUT, "the disk did not answer in time")
        self._on_done(*job.key, report.error)
        asyncio.get_running_loop().call_soon(job.deliver, report)

    def hanging(self, share: str, pool: Pool) -> int:
        """The threads of a pool that have waited for the disk longer than HANG_SECONDS."""
        key, now = (share, pool), asyncio.get_running_loop().time()
        count = self._stuck[key]
        for job in self._jobs:
            if now - job.started < HANG_SECONDS:
                break
            count += job.key == key and job.running and not job.executed
        return count

    def depths(self) -> Mapping[tuple[str, str], int]:
        """The number of running and queued operations, by share and pool."""
        return {(share, pool.value): depth for (share, pool), depth in self._depth.items()}

    def close(self) -> None:
        """Take no more work. Threads that a disk blocks are left behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for threads in self._threads.values():
            for job in threads.close():
                job.error = OSError("the gateway is stopping")
                self._queue(job)


def lower_priority() -> None:
    """Lower the priority of this thread and those that it starts.

    On Linux, each thread has a niceness of its own (setpriority(2)).
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
