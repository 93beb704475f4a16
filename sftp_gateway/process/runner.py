"""Runs the event loop until a signal says stop."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop

#: Python lets a thread run this long before another gets its turn. The default of 5 ms would be
#: the delay of every request while a thread lists a folder.
_SWITCH_INTERVAL: Final = 0.001


class StopSignal:
    """Set when the process is asked to stop; `name` is the signal's."""

    def __init__(self) -> None:
        self.name = ""
        self._event = asyncio.Event()

    def set(self, name: str) -> None:
        """Ask to stop; a second time means at once."""
        if self._event.is_set():
            os._exit(1)
        self.name = name
        self._event.set()

    async def wait(self) -> None:
        """Wait until the process is asked to stop."""
        await self._event.wait()


def _raise_descriptor_limit() -> None:
    """Let the process open as many files as it may: each open file of each client is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(main: Callable[[StopSignal], Awaitable[None]]) -> None:
    """Run `main` on uvloop, with a StopSignal that SIGTERM and SIGINT set.

    Ends the process with status 0 when `main` returns, without waiting for threads that hang in
    a disk. Errors of `main` are raised.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    _raise_descriptor_limit()

    async def with_signals() -> None:
        stop = StopSignal()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set, number.name)
        await main(stop)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(with_signals())
