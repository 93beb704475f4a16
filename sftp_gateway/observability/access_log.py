"""The access log's queue, and the thread that empties it.

Serving never waits for the log. `emit` puts an event into a deque and, when the writer rests,
wakes it; the writer turns events into lines, off the serving path, and gives them to the sinks.

What happens when the sinks are slower than the events is the overflow policy:

| policy  | at `capacity` waiting events        | at 4 x `capacity`             |
|---------|-------------------------------------|-------------------------------|
| `drop`  | new ones are dropped and counted    |                               |
| `block` | `congested`: the server stops       | new ones are dropped and      |
|         | taking requests until half is done  | counted, to bound the memory  |

`block` slows clients down, never the event loop. Whatever was dropped, the log says so where the
events are missing, with a `log_dropped` line.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import time as unix_time
from typing import Final, Literal, TypeAlias

from sftp_gateway.observability.events import Event, LogDropped, Request
from sftp_gateway.observability.json_lines import encode
from sftp_gateway.observability.sinks import Sink

Level: TypeAlias = Literal["files", "requests"]
Overflow: TypeAlias = Literal["block", "drop"]

#: In `block` mode requests that are running already still emit; beyond this they are dropped.
HARD_BOUND: Final = 4

#: Encoding holds Python's global lock, about 10 µs an event; a batch ends, and lets go of it, soon.
_BATCH: Final = 64

#: The writer, once woken, gathers events for this many seconds: waking it costs more than an event.
#: At `capacity` it hurries.
_GATHER: Final = 0.01

_logger = logging.getLogger(__name__)


class AccessLog:
    """A bounded queue of events with one writer thread, started at once.

    `capacity` is in events. At level `files`, Request events are ignored; see `wants_requests`.
    """

    def __init__(
        self,
        *,
        sinks: Sequence[Sink],
        level: Level = "files",
        overflow: Overflow = "block",
        capacity: int = 10_000,
    ) -> None:
        self.wants_requests: Final = level == "requests"
        self._outputs = [Output(sink) for sink in sinks]
        self._waiting: deque[Event] = deque()
        self._capacity = capacity
        self._blocks = overflow == "block"
        self._limit = capacity * HARD_BOUND if self._blocks else capacity
        self._congested = False
        self._room_callbacks: list[Callable[[], None]] = []
        self._drops = _Drops()
        self._taken = 0
        self._in_hand = 0
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._writer.start()

    def emit(self, event: Event) -> None:
        """Queue an event; from any thread. Never blocks, never raises."""
        if not self.wants_requests and type(event) is Request:
            return
        waiting = self._waiting
        if len(waiting) < self._limit:
            waiting.append(event)
        else:
            self._drops.add(event.time)
        if len(waiting) >= self._capacity:
            self._congested = self._blocks
            self._hurry.set()
        # Last, so that the writer, once woken, sees all of the above.
        if not self._wake.is_set():
            self._wake.set()

    def congested(self) -> bool:
        """Whether clients should be kept waiting: from `capacity` until under half of it."""
        return self._congested

    def add_room_callback(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, from the writer thread, each time `congested` has ended."""
        self._room_callbacks.append(callback)

    @property
    def emitted(self) -> int:
        """Events that were queued, so far."""
        return self._taken + len(self._waiting)

    @property
    def dropped(self) -> int:
        """Events that the queue had no room for, so far."""
        return self._drops.total

    @property
    def depth(self) -> int:
        """Events that wait now."""
        return len(self._waiting)

    @property
    def write_errors(self) -> int:
        """Batches that a sink failed to write, so far, over all sinks."""
        return sum(output.errors for output in self._outputs)

    @property
    def lines_lost(self) -> int:
        """Lines that a sink failed to write, so far, over all sinks."""
        return sum(output.lost for output in self._outputs)

    def close(self, timeout: float) -> int:
        """Write what waits, for at most `timeout` seconds; how many events were not written.

        What is emitted from here on is dropped.
        """
        self._limit = 0
        self._closing.set()
        self._hurry.set()
        self._wake.set()
        self._writer.join(timeout)
        return self._in_hand + len(self._waiting)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._hurry.wait(_GATHER)
            self._hurry.clear()
            self._wake.clear()
            self._drain()
        self._drain()
        for output in self._outputs:
            output.sink.close()

    def _drain(self) -> None:
        # What was dropped belongs behind what waits now, and before what comes meanwhile.
        gap = self._drops.take()
        left = len(self._waiting)
        while left:
            batch = [self._waiting.popleft() for _ in range(min(left, _BATCH))]
            left -= len(batch)
            self._in_hand = len(batch)
            self._taken += len(batch)
            self._write(batch)
            self._in_hand = 0
            self._end_congestion()
        if gap:
            self._write([gap])
        self._end_congestion()

    def _write(self, batch: Sequence[Event]) -> None:
        lines = b"".join(map(_encode, batch))
        for output in self._outputs:
            output.write(lines, len(batch))

    def _end_congestion(self) -> None:
        if not self._congested or 2 * len(self._waiting) >= self._capacity:
            return
        self._congested = False
        for callback in self._room_callbacks:
            try:
                callback()
            except Exception:  # an event loop that is closed, say; the log goes on
                _logger.exception("A callback of the access log failed")


@dataclass(slots=True)
class Output:
    """One sink, and what it failed to write."""

    sink: Sink
    errors: int = 0
    lost: int = 0
    _missing: int = 0  # of the lost, those that no `log_dropped` line has told of yet
    _since: float = 0.0

    def write(self, lines: bytes, count: int) -> None:
        """Write `count` lines, or count them as lost. Never raises."""
        if self._missing:
            gap = LogDropped(count=self._missing, since=self._since, reason="write_failed")
            lines = encode(gap) + lines
        try:
            self.sink.write(lines)
        except Exception as error:  # most likely OSError; whatever it is, the writer goes on
            self.errors += 1
            self.lost += count
            if not self._missing:
                self._since = unix_time()
                _logger.error("The access log cannot be written to %s: %s", self.sink, error)
            self._missing += count
        else:
            self._missing = 0


class _Drops:
    """Counts dropped events; from any thread."""

    def __init__(self) -> None:
        self.total = 0
        self._untold = 0
        self._since = 0.0
        self._lock = threading.Lock()

    def add(self, time: float) -> None:
        with self._lock:
            if not self._untold:
                self._since = time
            self._untold += 1
            self.total += 1

    def take(self) -> LogDropped | None:
        """What was dropped since it was asked last, or None."""
        with self._lock:
            count, self._untold = self._untold, 0
            since = self._since
        return LogDropped(count=count, since=since, reason="queue_full") if count else None


def _encode(event: Event) -> bytes:
    try:
        return encode(event)
    except Exception:  # a mistake of ours must not end the log; it is told in our own
        _logger.exception("An event could not be written to the access log: %r", event)
        return b""
