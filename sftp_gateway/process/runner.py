"""Runs the event loop of a worker, and sets the limits of its process."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import gc
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop

#: Seconds after which Python switches threads. With its default of 5 ms, every request would be
#: delayed that long while a thread lists a folder.
_SWITCH_INTERVAL: Final = 0.001

#: Size of the kernel's descriptor table from the start, at 8 bytes each. The kernel doubles a full
#: table, which stops a process with threads for 10 to 20 ms (synchronize_rcu).
_DESCRIPTOR_TABLE_SIZE: Final = 65_536


def raise_descriptor_limit() -> None:
    """Raise the limit of open files to its maximum: each open file of each client takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def release_free_memory() -> None:
    """Return free memory to the system, if the C library can (malloc_trim(3)).

    By itself it would keep what a flood of listings took: few of the pages are at the end of the
    heap.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def descriptor_limit() -> int:
    """How many files the process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _grow_descriptor_table() -> None:
    """Have the kernel allocate its descriptor table at its final size, before any thread exists."""
    spare = os.eventfd(0)
    highest = min(descriptor_limit(), _DESCRIPTOR_TABLE_SIZE) - 1
    os.close(fcntl.fcntl(spare, fcntl.F_DUPFD_CLOEXEC, highest))
    os.close(spare)


#: Of garbage collections (gc.set_threshold). A full one looks at all objects, which takes 10 ms
#: where clients have 4,096 folders open. By default, opening them would bring it about, and again
#: with every 70,000 objects more.
_COLLECTIONS: Final = (700, 10, 50)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` on uvloop, and exit the process with status 0 when it returns.

    Raises what `main` raises. Does not wait for threads that hang on a disk.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    _grow_descriptor_table()
    gc.set_threshold(*_COLLECTIONS)

    async def run_and_exit() -> None:
        await main()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_and_exit())
