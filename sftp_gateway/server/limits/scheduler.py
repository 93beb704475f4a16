"""Shares the event loop among connections, however much work each of them sends.

Theory of operation. Whatever a client makes the gateway do on the event loop (opening packets,
key exchanges, logins, requests, sending answers) happens within a time slice of its connection:

    | the connection | when its slice is used up                                            |
    |----------------|----------------------------------------------------------------------|
    | has no more    | it is idle; its next packet begins a slice at once                   |
    | has more       | it waits in one queue behind all others that have more, and is       |
    |                | called once it is first; meanwhile its socket is not read beyond one |
    |                | packet, so that TCP slows the client down                            |

In each turn of the event loop the queue is served for TURN seconds, whoever is in it. So a client
that has little to ask for is answered after one turn, whatever the others send, and clients that
have much to ask for get equal parts of the time.

The budget is time and not a number of packets, because a key exchange costs a thousand times as
much as a MSG_IGNORE. A slice ends between two packets or requests: what one of them may cost is
bounded where it is handled.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

#: Seconds of one connection, until the next in the queue has its turn.
SLICE: Final = 0.0005

#: Seconds of all connections in the queue, until the event loop looks at its sockets again.
TURN: Final = 0.0005


class Loop(Protocol):
    """What a scheduler needs of the event loop."""

    def call_soon(self, callback: Callable[[], None]) -> object:
        """Call `callback` in the next turn of the loop."""
        ...


class Scheduler:
    """The queue of connections that have more to do than fitted into their slices."""

    def __init__(self, loop: Loop, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` is in seconds."""
        self._loop = loop
        self.clock = clock
        self._queue: deque[TimeSlice] = deque()
        self._scheduled = False

    def add(self, waiting: TimeSlice) -> None:
        """Put a connection at the end of the queue."""
        self._queue.append(waiting)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        end = self.clock() + TURN
        try:
            for _ in range(len(self._queue)):
                self._queue.popleft().resume()
                if self.clock() >= end:
                    break
        finally:
            if self._queue:
                self._schedule()


class TimeSlice:
    """One connection's time on the event loop."""

    __slots__ = ("_clock", "_end", "_resume", "_scheduler", "waiting")

    def __init__(self, scheduler: Scheduler, resume: Callable[[], None]) -> None:
        """`resume` is called in a new slice, after `wait`."""
        self._scheduler = scheduler
        self._clock = scheduler.clock
        self._resume = resume
        self._end = 0.0
        #: Whether the connection is in the queue.
        self.waiting = False

    def begin(self) -> bool:
        """Begin a slice, which the caller has to `end`.

        False where one has begun already, or the connection is in the queue.
        """
        if self._end or self.waiting:
            return False
        self._end = self._clock() + SLICE
        return True

    def end(self) -> None:
        """End the slice that was begun."""
        self._end = 0.0

    def used_up(self) -> bool:
        """Whether the connection has to wait for its next slice; so it is outside of any."""
        return self._clock() >= self._end

    def wait(self) -> None:
        """Have `resume` called when it is this connection's turn."""
        if not self.waiting:
            self.waiting = True
            self._scheduler.add(self)

    def resume(self) -> None:
        """Begin the slice that was waited for."""
        self.waiting = False
        self._end = self._clock() + SLICE
        try:
            self._resume()
        finally:
            self._end = 0.0
