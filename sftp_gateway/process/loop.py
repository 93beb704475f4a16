"""The supervisor's event loop: sockets, timers and signals, one callback after another.

It is not asyncio's: a process that forks should have no threads, and no loop whose state the child
would have to undo.
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
    """A pending call."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Drop the call."""
        self._call = None

    def fire(self) -> None:
        """Make the call, once at most."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Loop:
    """Runs until `stop` is called."""

    def __init__(self) -> None:
        # Unlike epoll, poll has no state in the kernel that a child would share.
        self._selector = selectors.PollSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = True
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)

    def add_reader(self, readable: socket.socket, call: Callable[[], None]) -> None:
        """Call `call` whenever there is something to read."""
        self._selector.register(readable, selectors.EVENT_READ, call)

    def remove_reader(self, readable: socket.socket) -> None:
        """Undo `add_reader`."""
        self._selector.unregister(readable)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call `call` once, `seconds` from now."""
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def on_signals(
        self, numbers: Iterable[signal.Signals], call: Callable[[signal.Signals], None]
    ) -> None:
        """Call `call` from the loop with each of these signals; the handler itself is empty.

        Signals of one kind that arrive together may become one call.
        """
        for number in numbers:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

        def arrived() -> None:
            for number in dict.fromkeys(self._woken.recv(4096)):
                call(signal.Signals(number))

        self.add_reader(self._woken, arrived)

    def stop(self) -> None:
        """Have `run` return after this callback."""
        self._running = False

    def run(self) -> None:
        """Run callbacks until `stop` is called."""
        while self._running:
            for key, _ in self._selector.select(self._until_next_timer()):
                # An earlier callback of this turn may have removed it.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2].fire()

    def _until_next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def close(self) -> None:
        """Close the loop's own descriptors."""
        signal.set_wakeup_fd(-1)
        self._woken.close()
        self._wake.close()
