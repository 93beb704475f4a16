"""Threads on which file operations wait for a disk, apart for each share and kind of work.

A share whose disk hangs fills only its own lanes; and its reads leave the lane of its other
requests free, so that folders can be listed while big files are read slowly.

What a disk has not answered in time is given up: whoever asked is told so, and what comes later is
let go. Nothing ends a thread that the kernel keeps waiting, so it stays; but a lane has a fixed
number of them, and while all of them are kept like that, new work is given up at once instead of
queueing behind them. All work has the same time, so the oldest is always the next to be given up,
and one timer does for all lanes.
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


class Lane(StrEnum):
    """The kinds of work that are kept apart."""

    READ = "read"
    METADATA = "metadata"
    CHECKSUM = "checksum"
    #: Of the gateway itself, whether the share can be read: not to be held up by clients.
    LOOK = "look"


#: Threads for each share. Made when first needed; an idle one costs a few KiB.
THREADS: Final = {Lane.READ: 16, Lane.METADATA: 8, Lane.CHECKSUM: 2, Lane.LOOK: 2}

#: By how much threads that compute leave the processor to those that serve (nice(1)).
_NICE: Final = 10

#: Seconds after which work that is not done hangs, whether it is given up then or not.
HANGING: Final = 10.0


@dataclass(slots=True, eq=False, kw_only=True)
class _Work:
    """Something that a thread does or will do; `started` in the event loop's time."""

    key: tuple[str, Lane]
    running: Future[Any]
    started: float
    done: Callable[[asyncio.Future[Any]], None]
    late: Callable[[Any], None]
    patient: bool
    given_up: bool = False
    stuck: bool = False


class Lanes:
    """The lanes of all shares."""

    def __init__(
        self,
        shares: Iterable[str],
        *,
        timeout: float = float("inf"),
        ended: Callable[[str, Lane, Exception | None], None] = lambda share, lane, error: None,
    ) -> None:
        """`timeout`: seconds after which work that is not done is given up.

        `ended` is told of all work, given up or not, with its error.
        """
        self._executors = {
            (share, lane): ThreadPoolExecutor(
                THREADS[lane],
                thread_name_prefix=f"{share} {lane}",
                initializer=lower_priority if lane is Lane.CHECKSUM else None,
            )
            for share in shares
            for lane in Lane
        }
        self._depth = dict.fromkeys(self._executors, 0)
        self._timeout = timeout
        self._ended = ended
        #: What is not done and not given up, the oldest first (a dict keeps the order).
        self._work: dict[_Work, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: Threads that have been waiting for longer than `timeout`.
        self._stuck = dict.fromkeys(self._executors, 0)

    def submit(
        self,
        share: str,
        lane: Lane,
        work: Callable[[], T],
        done: Callable[[asyncio.Future[T]], None],
        *,
        late: Callable[[T], None] = lambda result: None,
        patient: bool = False,
    ) -> None:
        """Run `work` on a thread of the lane; then call `done` on the event loop.

        Called on the event loop. `done` gets a finished future, which holds the result or the
        error: TimeoutError where the disk did not answer in time. A result that comes after that
        is given to `late`. `patient` work is never given up; whoever submits it sees to it that
        there is little of it.
        """
        key = (share, lane)
        loop = asyncio.get_running_loop()
        if self._stuck[key] >= THREADS[lane] and not patient:
            self._tell_given_up(key, done)
            return
        running = self._executors[key].submit(work)
        item = _Work(
            key=key,
            running=running,
            started=loop.time(),
            done=done,
            late=late,
            patient=patient,
        )
        self._depth[key] += 1
        self._work[item] = None
        asyncio.wrap_future(running, loop=loop).add_done_callback(
            lambda future: self._finished(item, future)
        )
        if self._timer is None and self._timeout != float("inf"):
            self._timer = loop.call_at(item.started + self._timeout, self._give_up_old)

    def let_go(self, share: str, close: Callable[[], None]) -> None:
        """Have a thread call `close`: on FUSE, close(2) waits for the file system's answer."""
        with suppress(RuntimeError):  # the lanes are closed, and so will be what is open
            self.submit(share, Lane.METADATA, close, lambda future: None, patient=True)

    def _finished(self, item: _Work, future: asyncio.Future[Any]) -> None:
        self._depth[item.key] -= 1
        self._work.pop(item, None)
        self._stuck[item.key] -= item.stuck
        if not item.given_up:
            self._ended(*item.key, error_of(future))
            item.done(future)
        elif error_of(future) is None:
            item.late(future.result())

    def _give_up_old(self) -> None:
        """Give up what is due, and set the timer for what is the oldest then."""
        loop = asyncio.get_running_loop()
        while self._work:
            item = next(iter(self._work))
            deadline = item.started + self._timeout
            if deadline > loop.time():
                self._timer = loop.call_at(deadline, self._give_up_old)
                return
            del self._work[item]
            self._give_up(item)
        self._timer = None

    def _give_up(self, item: _Work) -> None:
        if item.running.done():  # its result is on its way here
            return
        item.stuck = item.patient or not item.running.cancel()
        self._stuck[item.key] += item.stuck
        if not item.patient:
            item.given_up = True
            self._tell_given_up(item.key, item.done)

    def _tell_given_up(
        self, key: tuple[str, Lane], done: Callable[[asyncio.Future[Any]], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        future = _given_up(loop)
        self._ended(*key, error_of(future))
        loop.call_soon(done, future)

    def hanging(self, share: str, lane: Lane) -> int:
        """Threads of the lane that have waited for the disk for more than HANGING seconds."""
        key, now = (share, lane), asyncio.get_running_loop().time()
        count = self._stuck[key]
        for item in self._work:
            if now - item.started < HANGING:
                break
            count += item.key == key and item.running.running()
        return count

    def depths(self) -> Mapping[tuple[str, str], int]:
        """By share and lane: how many operations are under way or wait there."""
        return {(share, lane.value): depth for (share, lane), depth in self._depth.items()}

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


def _given_up(loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
    """What `done` is told of work that was given up."""
    future = loop.create_future()
    future.set_exception(TimeoutError(errno.ETIMEDOUT, "the disk did not answer in time"))
    future.exception()  # whoever gets it need not look
    return future


def error_of(future: asyncio.Future[T]) -> Exception | None:
    """The error of a finished future; a cancelled one (the lanes were closed) counts as one."""
    if future.cancelled():
        return OSError("the gateway is stopping")
    error = future.exception()
    return error if error is None or isinstance(error, Exception) else OSError(str(error))
