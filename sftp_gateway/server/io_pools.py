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
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from sftp_gateway.server.limits.scheduler import TURN

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


@dataclass(slots=True, eq=False, kw_only=True)
class _Job:
    """Submitted work; `started` is in the event loop's time."""

    key: tuple[str, Pool]
    running: Future[Any]
    started: float
    done: Callable[[Future[Any]], None]
    on_late_result: Callable[[Any], None]
    no_timeout: bool
    abandoned: bool = False
    stuck: bool = False


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
        self._executors = {
            (share, pool): ThreadPoolExecutor(
                THREADS[pool],
                thread_name_prefix=f"{share} {pool}",
                initializer=lower_priority if pool is Pool.CHECKSUM else None,
            )
            for share in shares
            for pool in Pool
        }
        self._depth = dict.fromkeys(self._executors, 0)
        self._timeout = timeout
        self._on_done = on_done
        #: Jobs that are neither done nor abandoned, the oldest first.
        self._jobs: dict[_Job, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: Jobs that are done, until their callers get them; threads append to it.
        self._completed: deque[_Job] = deque()
        self._delivery_scheduled = False
        #: Threads that are blocked for longer than `timeout`.
        self._stuck = dict.fromkeys(self._executors, 0)

    def submit(
        self,
        share: str,
        pool: Pool,
        work: Callable[[], T],
        done: Callable[[Future[T]], None],
        *,
        on_late_result: Callable[[T], None] = lambda result: None,
        no_timeout: bool = False,
    ) -> None:
        """Run `work` on a thread of the pool; then call `done` on the event loop.

        `done` gets a finished future with the result or the error, which is TimeoutError for
        abandoned work. A result that comes after that goes to `on_late_result`. Work with
        `no_timeout` is never abandoned; the caller bounds how much of it there is.
        """
        key = (share, pool)
        loop = asyncio.get_running_loop()
        if self._stuck[key] >= THREADS[pool] and not no_timeout:
            self._report_abandoned(key, done)
            return
        running = self._executors[key].submit(work)
        job = _Job(
            key=key,
            running=running,
            started=loop.time(),
            done=done,
            on_late_result=on_late_result,
            no_timeout=no_timeout,
        )
        self._depth[key] += 1
        self._jobs[job] = None
        running.add_done_callback(lambda _: self._queue(loop, job))
        if self._timer is None and self._timeout != float("inf"):
            self._timer = loop.call_at(job.started + self._timeout, self._abandon_overdue)

    def close_later(self, share: str, close: Callable[[], None]) -> None:
        """Have a thread call `close`: on FUSE, close(2) waits for the file system."""
        with suppress(RuntimeError):  # the pools are closed, and the process ends
            self.submit(share, Pool.METADATA, close, lambda future: None, no_timeout=True)

    def _queue(self, loop: asyncio.AbstractEventLoop, job: _Job) -> None:
        """Called on the thread that did the work, or on the event loop if it was cancelled."""
        self._completed.append(job)
        self._schedule_delivery(loop)

    def _schedule_delivery(self, loop: asyncio.AbstractEventLoop) -> None:
        # Two threads may both schedule one, of which the second finds nothing.
        if not self._delivery_scheduled:
            self._delivery_scheduled = True
            with suppress(RuntimeError):  # the loop is closed, and the process ends
                loop.call_soon_threadsafe(self._deliver, loop)

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        self._delivery_scheduled = False  # first: what is appended from now on is scheduled again
        end = time.perf_counter() + TURN
        try:
            while self._completed:
                self._finish(self._completed.popleft())
                if time.perf_counter() >= end:
                    break
        finally:
            if self._completed:
                self._schedule_delivery(loop)

    def _finish(self, job: _Job) -> None:
        future = job.running
        self._depth[job.key] -= 1
        self._jobs.pop(job, None)
        self._stuck[job.key] -= job.stuck
        if not job.abandoned:
            self._on_done(*job.key, error_of(future))
            job.done(future)
        elif error_of(future) is None:
            job.on_late_result(future.result())

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

    def _abandon(self, job: _Job) -> None:
        if job.running.done():  # `_finish` follows
            return
        job.stuck = job.no_timeout or not job.running.cancel()
        self._stuck[job.key] += job.stuck
        if not job.no_timeout:
            job.abandoned = True
            self._report_abandoned(job.key, job.done)

    def _report_abandoned(self, key: tuple[str, Pool], done: Callable[[Future[Any]], None]) -> None:
        future: Future[Any] = Future()
        future.set_exception(TimeoutError(errno.ETIMEDOUT, "the disk did not answer in time"))
        self._on_done(*key, error_of(future))
        asyncio.get_running_loop().call_soon(done, future)

    def hanging(self, share: str, pool: Pool) -> int:
        """The threads of a pool that have waited for the disk longer than HANG_SECONDS."""
        key, now = (share, pool), asyncio.get_running_loop().time()
        count = self._stuck[key]
        for job in self._jobs:
            if now - job.started < HANG_SECONDS:
                break
            count += job.key == key and job.running.running()
        return count

    def depths(self) -> Mapping[tuple[str, str], int]:
        """The number of running and queued operations, by share and pool."""
        return {(share, pool.value): depth for (share, pool), depth in self._depth.items()}

    def close(self) -> None:
        """Take no more work. Threads that a disk blocks are left behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)


def lower_priority() -> None:
    """Lower the priority of this thread and those that it starts.

    On Linux, each thread has a niceness of its own (setpriority(2)).
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def error_of(future: Future[T]) -> Exception | None:
    """The error of a finished future. Cancellation (the pools were closed) is an error too."""
    if future.cancelled():
        return OSError("the gateway is stopping")
    error = future.exception()
    return error if error is None or isinstance(error, Exception) else OSError(str(error))
