"""Threads on which file operations wait for a disk, apart for each share and kind of work.

A share whose disk hangs fills only its own lanes; and its reads leave the lane of its other
requests free, so that folders can be listed while big files are read slowly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Final, TypeVar

T = TypeVar("T")


class Lane(StrEnum):
    """The kinds of work that are kept apart."""

    READ = "read"
    METADATA = "metadata"


#: Threads for each share. Made when first needed; an idle one costs a few KiB.
_THREADS: Final = {Lane.READ: 16, Lane.METADATA: 8}


class Lanes:
    """The lanes of all shares."""

    def __init__(self, shares: Iterable[str]) -> None:
        self._executors = {
            (share, lane): ThreadPoolExecutor(_THREADS[lane], thread_name_prefix=f"{share} {lane}")
            for share in shares
            for lane in Lane
        }
        self._depth = dict.fromkeys(self._executors, 0)

    def submit(
        self,
        share: str,
        lane: Lane,
        work: Callable[[], T],
        done: Callable[[asyncio.Future[T]], None],
    ) -> None:
        """Run `work` on a thread of the lane; then call `done` on the event loop.

        Called on the event loop. `done` gets a finished future, which holds the result or the
        error.
        """
        key = (share, lane)
        self._depth[key] += 1

        def finished(future: asyncio.Future[T]) -> None:
            self._depth[key] -= 1
            done(future)

        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._executors[key], work).add_done_callback(finished)

    def depths(self) -> Mapping[tuple[str, str], int]:
        """By share and lane: how many operations are under way or wait there."""
        return {(share, lane.value): depth for (share, lane), depth in self._depth.items()}

    def close(self) -> None:
        """Take no more work; threads that hang in a disk are left behind."""
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)


def error_of(future: asyncio.Future[T]) -> Exception | None:
    """The error of a finished future; a cancelled one (the lanes were closed) counts as one."""
    if future.cancelled():
        return OSError("the gateway is stopping")
    error = future.exception()
    return error if error is None or isinstance(error, Exception) else OSError(str(error))
