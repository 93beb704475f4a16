"""Shares the event loop fairly among connections.

All work for a client on the event loop (decrypting packets, key exchanges, logins, requests,
sending responses) happens within a time slice of its connection:

    | the connection | when its slice is used up                                            |
    |----------------|----------------------------------------------------------------------|
    | has no more    | it is idle; its next packet begins a slice at once                   |
    | has more       | it joins one queue with all others that have more; meanwhile at most |
    |                | one packet is read from its socket, so TCP slows the client down     |

Each turn of the event loop serves the queue for TURN seconds. A client with few requests is
answered within one turn, whatever the others send; clients with many get equal parts of the time.

The unit is time, not packets: a key exchange costs a thousand times as much as a MSG_IGNORE. A
slice ends between two packets or requests; each of them has bounds of its own. It is shorter for
messages beside the requests, of which an honest client has no more than a few.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

T = TypeVar("T")

#: Seconds of a connection's time slice.
SLICE: Final = 0.0005

#: Seconds of a slice in which a message was handled that is no part of the requests.
SHORT_SLICE: Final = 0.0002

#: Seconds for which the queue is served before the event loop polls its sockets again.
TURN: Final = 0.0005


class Loop(Protocol):
    """What a scheduler needs of the event loop."""

    def call_soon(self, callback: Callable[[], None]) -> object:
        """Call `callback` in the next turn of the loop."""
        ...


def serve_queue(
    queue: deque[T], serve: Callable[[T], None], *, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Take from `queue` what is in it now, for TURN seconds of `clock`, and `serve` each of it.

    What `serve` raises ends the turn.
    """
    end = clock() + TURN
    for _ in range(len(queue)):
        serve(queue.popleft())
        if clock() >= end:
            break


class Scheduler:
    """The queue of connections with more work than fits into a slice."""

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
        try:
            serve_queue(self._queue, TimeSlice.resume, clock=self.clock)
        finally:
            if self._queue:
                self._schedule()


class TimeSlice:
    """One connection's time on the event loop."""

    __slots__ = ("_clock", "_end", "_resume", "_scheduler", "_short", "waiting")

    def __init__(self, scheduler: Scheduler, resume: Callable[[], None]) -> None:
        """`resume` is called in a new slice, after `wait`."""
        self._scheduler = scheduler
        self._clock = scheduler.clock
        self._resume = resume
        self._end = 0.0
        self._short = False
        #: Whether the connection is in the queue.
        self.waiting = False

    def begin(self) -> bool:
        """Begin a slice, which the caller has to `end`.

        Returns False if one has begun already or the connection is in the queue.
        """
        if self._end or self.waiting:
            return False
        self._end = self._clock() + SLICE
        self._short = False
        return True

    def shorten(self) -> None:
        """Let the slice, if one has begun, be SHORT_SLICE long in all."""
        if self._end and not self._short:
            self._end -= SLICE - SHORT_SLICE
            self._short = True

    def end(self) -> None:
        """End the slice that was begun."""
        self._end = 0.0

    def used_up(self) -> bool:
        """Whether the connection has to wait for its next slice; also outside of any slice."""
        return self._clock() >= self._end

    def wait(self) -> None:
        """Join the queue, to have `resume` called in the next slice."""
        if not self.waiting:
            self.waiting = True
            self._scheduler.add(self)

    def resume(self) -> None:
        """Run the slice that the connection waited for."""
        self.waiting = False
        self._end = self._clock() + SLICE
        self._short = False
        try:
            self._resume()
        finally:
            self._end = 0.0
