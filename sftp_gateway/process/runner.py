"""Runs the event loop of a process that serves."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop

#: Python lets a thread run this long before another gets its turn. The default of 5 ms would be
#: the delay of every request while a thread lists a folder.
_SWITCH_INTERVAL: Final = 0.001


#: Descriptors that the kernel has room for from the start, at 8 bytes each. It doubles the table
#: whenever that is full, and in a process with threads waits for every processor meanwhile
#: (synchronize_rcu): 10 to 20 ms, in which nobody would be served.
_DESCRIPTORS: Final = 65_536


def raise_descriptor_limit() -> None:
    """Let the process open as many files as it may: each open file of each client is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def release_free_memory() -> None:
    """Give memory that nothing uses back to the system, where the C library can (malloc_trim(3)).

    Left to itself, it keeps what a flood of listings took for ever: few of the pages are at the
    end of its heap.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def descriptor_limit() -> int:
    """How many the process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _make_room_for_descriptors() -> None:
    """Have the kernel make its table of descriptors as large as it may become.

    Before the first thread is started.
    """
    spare = os.eventfd(0)
    highest = min(descriptor_limit(), _DESCRIPTORS) - 1
    os.close(fcntl.fcntl(spare, fcntl.F_DUPFD_CLOEXEC, highest))
    os.close(spare)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` on uvloop. Its errors are raised.

    Ends the process with status 0 when `main` returns, without waiting for threads that hang in
    a disk.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    _make_room_for_descriptors()

    async def to_the_end() -> None:
        await main()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(to_the_end())
