"""The supervisor's event loop: sockets, timers and signals, one callback after another.

Not asyncio: a process that forks had better have no threads, and no state in its loop that would
have to be undone in the child.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable


class Timer:
    """A call that is to come."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Let it not come."""
        self._call = None

    def fire(self) -> None:
        """Make the call, once."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Loop:
    """Runs until it is told to stop."""

    def __init__(self) -> None:
        # Of the selectors, poll has no state in the kernel, which a child would share.
        self._selector = selectors.PollSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = True
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)

    def watch(self, readable: socket.socket, call: Callable[[], None]) -> None:
        """Call when there is something to read, for as long as there is."""
        self._selector.register(readable, selectors.EVENT_READ, call)

    def unwatch(self, readable: socket.socket) -> None:
        """Do so no more."""
        self._selector.unregister(readable)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once, so many seconds from now."""
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def on_signals(
        self, numbers: Iterable[signal.Signals], call: Callable[[signal.Signals], None]
    ) -> None:
        """Call with each of these signals that comes, from the loop: the handler itself is empty.

        Those of one kind that come at once may be one.
        """
        for number in numbers:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

        def arrived() -> None:
            for number in dict.fromkeys(self._woken.recv(4096)):
                call(signal.Signals(number))

        self.watch(self._woken, arrived)

    def stop(self) -> None:
        """Let `run` return after this callback."""
        self._running = False

    def run(self) -> None:
        """Wait and call, until `stop`."""
        while self._running:
            for key, _ in self._selector.select(self._until_next_timer()):
                # An earlier callback of this turn may have let go of it.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2].fire()

    def _until_next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def abandon(self) -> None:
        """In a child: close what was the parent's."""
        signal.set_wakeup_fd(-1)
        self._woken.close()
        self._wake.close()
