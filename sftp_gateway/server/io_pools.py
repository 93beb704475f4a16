"""Threads on which file operations wait for a disk, apart for each share and kind of work.

A share whose disk hangs fills only its own pools; and its reads leave the pool of its other
requests free, so that folders can be listed while big files are read slowly.

What a disk has not answered in time is given up: whoever asked is told so, and what comes later is
let go. Nothing ends a thread that the kernel keeps waiting, so it stays; but a pool has a fixed
number of them, and while all of them are kept like that, new work is given up at once instead of
queueing behind them. All work has the same time, so the oldest is always the next to be given up,
and one timer does for all pools.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

T = TypeVar("T")


class Pool(StrEnum):
    """The kinds of work that are kept apart."""

    READ = "read"
    METADATA = "metadata"
    CHECKSUM = "checksum"
    #: Of the gateway itself, whether the share can be read: not to be held up by clients.
    PROBE = "look"


#: Threads for each share. Made when first needed; an idle one costs a few KiB.
THREADS: Final = {Pool.READ: 16, Pool.METADATA: 8, Pool.CHECKSUM: 2, Pool.PROBE: 2}

#: By how much threads that compute leave the processor to those that serve (nice(1)).
_NICE: Final = 10

#: Seconds after which work that is not done hangs, whether it is given up then or not.
HANG_SECONDS: Final = 10.0


@dataclass(slots=True, eq=False, kw_only=True)
class _Job:
    """Something that a thread does or will do; `started` in the event loop's time."""

    key: tuple[str, Pool]
    running: Future[Any]
    started: float
    done: Callable[[asyncio.Future[Any]], None]
    on_late_result: Callable[[Any], None]
    no_timeout: bool
    abandoned: bool = False
    stuck: bool = False


class IoPools:
    """The pools of all shares."""

    def __init__(
        self,
        shares: Iterable[str],
        *,
        timeout: float = float("inf"),
        on_done: Callable[[str, Pool, Exception | None], None] = lambda share, pool, error: None,
    ) -> None:
        """`timeout`: seconds after which work that is not done is given up.

        `on_done` is told of all work, given up or not, with its error.
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
        #: What is not done and not given up, the oldest first (a dict keeps the order).
        self._work: dict[_Job, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: Threads that have been waiting for longer than `timeout`.
        self._stuck = dict.fromkeys(self._executors, 0)

    def submit(
        self,
        share: str,
        pool: Pool,
        work: Callable[[], T],
        done: Callable[[asyncio.Future[T]], None],
        *,
        on_late_result: Callable[[T], None] = lambda result: None,
        no_timeout: bool = False,
    ) -> None:
        """Run `work` on a thread of the pool; then call `done` on the event loop.

        Called on the event loop. `done` gets a finished future, which holds the result or the
        error: TimeoutError where the disk did not answer in time. A result that comes after that
        goes to `on_late_result`. Work with `no_timeout` is never abandoned; the caller bounds how
        much of it there is.
        """
        key = (share, pool)
        loop = asyncio.get_running_loop()
        if self._stuck[key] >= THREADS[pool] and not no_timeout:
            self._report_abandoned(key, done)
            return
        running = self._executors[key].submit(work)
        item = _Job(
            key=key,
            running=running,
            started=loop.time(),
            done=done,
            on_late_result=on_late_result,
            no_timeout=no_timeout,
        )
        self._depth[key] += 1
        self._work[item] = None
        asyncio.wrap_future(running, loop=loop).add_done_callback(
            lambda future: self._finished(item, future)
        )
        if self._timer is None and self._timeout != float("inf"):
            self._timer = loop.call_at(item.started + self._timeout, self._abandon_overdue)

    def close_later(self, share: str, close: Callable[[], None]) -> None:
        """Have a thread call `close`: on FUSE, close(2) waits for the file system's answer."""
        with suppress(RuntimeError):  # the pools are closed, and so will be what is open
            self.submit(share, Pool.METADATA, close, lambda future: None, no_timeout=True)

    def _finished(self, item: _Job, future: asyncio.Future[Any]) -> None:
        self._depth[item.key] -= 1
        self._work.pop(item, None)
        self._stuck[item.key] -= item.stuck
        if not item.abandoned:
            self._on_done(*item.key, error_of(future))
            item.done(future)
        elif error_of(future) is None:
            item.on_late_result(future.result())

    def _abandon_overdue(self) -> None:
        """Give up what is due, and set the timer for what is the oldest then."""
        loop = asyncio.get_running_loop()
        while self._work:
            item = next(iter(self._work))
            deadline = item.started + self._timeout
            if deadline > loop.time():
                self._timer = loop.call_at(deadline, self._abandon_overdue)
                return
            del self._work[item]
            self._abandon(item)
        self._timer = None

    def _abandon(self, item: _Job) -> None:
        if item.running.done():  # its result is on its way here
            return
        item.stuck = item.no_timeout or not item.running.cancel()
        self._stuck[item.key] += item.stuck
        if not item.no_timeout:
            item.abandoned = True
            self._report_abandoned(item.key, item.done)

    def _report_abandoned(
        self, key: tuple[str, Pool], done: Callable[[asyncio.Future[Any]], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        future = _timed_out(loop)
        self._on_done(*key, error_of(future))
        loop.call_soon(done, future)

    def hanging(self, share: str, pool: Pool) -> int:
        """Threads of the pool that have waited for the disk for more than HANG_SECONDS."""
        key, now = (share, pool), asyncio.get_running_loop().time()
        count = self._stuck[key]
        for item in self._work:
            if now - item.started < HANG_SECONDS:
                break
            count += item.key == key and item.running.running()
        return count

    def depths(self) -> Mapping[tuple[str, str], int]:
        """By share and pool: how many operations are under way or wait there."""
        return {(share, pool.value): depth for (share, pool), depth in self._depth.items()}

    def close(self) -> None:
        """Take no more work; threads that hang in a disk are left behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)


def lower_priority() -> None:
    """Let other threads run first, where processors are scarce.

    Of this thread, and of those that it starts: on Linux, each has a priority of its own.
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _timed_out(loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
    """What `done` is told of work that was given up."""
    future = loop.create_future()
    future.set_exception(TimeoutError(errno.ETIMEDOUT, "the disk did not answer in time"))
    future.exception()  # whoever gets it need not look
    return future


def error_of(future: asyncio.Future[T]) -> Exception | None:
    """The error of a finished future; a cancelled one (the pools were closed) counts as one."""
    if future.cancelled():
        return OSError("the gateway is stopping")
    error = future.exception()
    return error if error is None or isinstance(error, Exception) else OSError(str(error))
