"""The access log's queue, and the thread that empties it.

Serving never waits for the log. `emit` puts an event into a queue and, when the writer rests,
wakes it; the writer turns events into lines, off the serving path, and gives them to the sinks.

What a client can cause without limit is summed up beyond a rate, before it comes into the queue
(rate_limit.py). What happens when the sinks are slower than the events is the overflow policy:

| policy  | waiting                       | what is done                                         |
|---------|-------------------------------|------------------------------------------------------|
| `drop`  | `capacity` events             | a new one has another dropped, and counted           |
| `block` | `capacity` / 2 of one user    | `congested` for the user, until half of them is done |
|         | `capacity` of all             | `congested` for everybody, until half is done        |
|         | 4 x `capacity`                | as with `drop`                                       |

While a user or everybody is congested, the server takes no requests: `block` slows clients down,
never the event loop. A user whose lines have too many bytes (rate_limit.py) is congested too.

Dropped is what the owner with the most in the queue has there, minor events first, so that nobody
loses a line to somebody else's flood. With `block`, ends of files and sessions are never dropped:
there are no more of them than files and sessions that were open. Whatever was dropped, the log
says so where the events are missing, with a `log_dropped` line.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from time import time as unix_time
from typing import Final, Literal, TypeAlias

from sftp_gateway.observability.access_log import rate_limit
from sftp_gateway.observability.access_log.events import (
    Event,
    FileClosed,
    LogDropped,
    Request,
    SessionEnded,
    SessionEvent,
)
from sftp_gateway.observability.access_log.fair_queue import FairQueue
from sftp_gateway.observability.access_log.json_lines import encode
from sftp_gateway.observability.access_log.sinks import Sink
from sftp_gateway.token_bucket import TokenBucket

Level: TypeAlias = Literal["files", "requests"]
Overflow: TypeAlias = Literal["block", "drop"]

#: In `block` mode requests that are running already still emit; beyond this they are dropped.
HARD_BOUND: Final = 4

#: Encoding holds Python's global lock, about 10 µs an event. After each batch the writer sleeps for
#: as long as the batch took, at most _REST seconds: to release the lock is not enough where the
#: process has one processor, because the kernel would let the writer run for another 3 ms.
_BATCH: Final = 32
_REST: Final = 0.001

#: The writer, once woken, gathers events for this many seconds: waking it costs more than an event.
#: At `capacity` it hurries.
_GATHER: Final = 0.01

#: Seconds between two looks at who need not wait any more, while anybody waits for time to pass.
_CHECK_INTERVAL: Final = 0.1

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
        self._blocks = overflow == "block"
        self._waiting: FairQueue[Event] = FairQueue(
            capacity * HARD_BOUND if self._blocks else capacity
        )
        self._limiter = rate_limit.EventLimiter()
        self._lock = threading.Lock()  # for these two
        self._capacity = capacity
        self._congested = False
        #: Users with too many events in the queue, and with too many bytes written.
        self._over_queue_share: set[str] = set()
        self._over_byte_rate: set[str] = set()
        self._byte_rates: dict[str, TokenBucket] = {}
        self._room_callbacks: list[Callable[[], None]] = []
        self._drops = _DropCounter()
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
        if self._closing.is_set():
            self._drops.add(event.time)
            return
        owner = rate_limit.owner_of(event)
        with self._lock:
            if isinstance(event, SessionEnded):
                for summary in self._limiter.ended(event.session):
                    self._put(summary, owner)
            if (
                not isinstance(event, SessionEvent)
                or type(event) not in rate_limit.RATE_LIMITED
                or self._limiter.admits(event, owner, monotonic())
            ):
                self._put(event, owner)
        # Last, so that the writer, once woken, sees all of the above.
        if not self._wake.is_set():
            self._wake.set()

    def _put(self, event: Event, owner: str | None) -> None:
        waiting = self._waiting
        dropped = waiting.put(
            event,
            owner=owner,
            minor=rate_limit.is_minor(event),
            always=self._blocks and _is_end(event),
        )
        for lost in dropped:
            self._drops.add(lost.time)
        if waiting.size >= self._capacity:
            self._congested = self._blocks
            self._hurry.set()
        if (
            self._blocks
            and isinstance(event, SessionEvent)
            and (user := event.session.user) is not None
            and 2 * waiting.size_of(user) >= self._capacity
        ):
            self._over_queue_share.add(user)
            self._hurry.set()

    def congested(self, user: str | None = None) -> bool:
        """Whether clients, or those of `user`, should be kept waiting."""
        return self._congested or user in self._over_queue_share or user in self._over_byte_rate

    def add_room_callback(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, from the writer thread, when anybody need not wait any more."""
        self._room_callbacks.append(callback)

    @property
    def emitted(self) -> int:
        """Events that were queued, so far."""
        return self._taken + self._waiting.size

    @property
    def dropped(self) -> int:
        """Events that the queue had no room for, so far."""
        return self._drops.total

    @property
    def depth(self) -> int:
        """Events that wait now."""
        return self._waiting.size

    @property
    def suppressed(self) -> int:
        """Events that were summed up instead of written, so far."""
        return self._limiter.suppressed

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
        self._closing.set()
        self._hurry.set()
        self._wake.set()
        self._writer.join(timeout)
        return self._in_hand + self._waiting.size

    def _run(self) -> None:
        while not self._closing.is_set():
            timed = self._over_byte_rate or self._limiter.pending
            if self._wake.wait(_CHECK_INTERVAL if timed else None):
                self._hurry.wait(_GATHER)
                self._hurry.clear()
                self._wake.clear()
            self._report(monotonic())
            self._drain()
        self._report(math.inf)
        self._drain()
        for output in self._outputs:
            output.sink.close()

    def _report(self, now: float) -> None:
        """Queue the lines that say what was summed up by then."""
        with self._lock:
            for summary in self._limiter.summaries(now):
                self._waiting.put(summary, owner=rate_limit.owner_of(summary), always=True)

    def _drain(self) -> None:
        # What was dropped belongs behind what waits now, and before what comes meanwhile.
        gap = self._drops.take()
        left = self._waiting.size
        while left > 0:
            with self._lock:
                batch = self._waiting.take(min(left, _BATCH))
                self._in_hand = len(batch)
                self._taken += len(batch)
            left -= len(batch) or left
            began = monotonic()
            self._write(batch)
            self._in_hand = 0
            self._end_congestion()
            self._closing.wait(min(monotonic() - began, _REST))
        if gap:
            self._write([gap])
        self._end_congestion()

    def _write(self, batch: Sequence[Event]) -> None:
        lines = [_encode(event) for event in batch]
        data = b"".join(lines)
        for output in self._outputs:
            output.write(data, len(batch))
        if self._blocks:
            self._charge(batch, lines)

    def _charge(self, batch: Sequence[Event], lines: Sequence[bytes]) -> None:
        """Count what has been written against the rates of the users."""
        now = monotonic()
        for event, line in zip(batch, lines, strict=True):
            if isinstance(event, SessionEvent) and (user := event.session.user) is not None:
                rate = self._byte_rates.get(user)
                if rate is None:
                    rate = self._byte_rates[user] = TokenBucket(
                        rate=rate_limit.BYTE_RATE, capacity=rate_limit.BYTE_BURST, now=now
                    )
                rate.spend(len(line), now)
                if rate.level(now) < 0:
                    self._over_byte_rate.add(user)

    def _end_congestion(self) -> None:
        ended = False
        with self._lock:
            if self._congested and 2 * self._waiting.size < self._capacity:
                self._congested, ended = False, True
            for user in tuple(self._over_queue_share):
                if 4 * self._waiting.size_of(user) < self._capacity:
                    self._over_queue_share.discard(user)
                    ended = True
        now = monotonic()
        for user in tuple(self._over_byte_rate):
            # Not at once, so that it does not begin again with the next line.
            if self._byte_rates[user].level(now) >= _CHECK_INTERVAL * rate_limit.BYTE_RATE:
                self._over_byte_rate.discard(user)
                ended = True
        if not ended:
            return
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


class _DropCounter:
    """Counts dropped events; from any thread."""

    def __init__(self) -> None:
        self.total = 0
        self._unreported = 0
        self._since = 0.0
        self._lock = threading.Lock()

    def add(self, time: float) -> None:
        with self._lock:
            if not self._unreported:
                self._since = time
            self._unreported += 1
            self.total += 1

    def take(self) -> LogDropped | None:
        """What was dropped since it was asked last, or None."""
        with self._lock:
            count, self._unreported = self._unreported, 0
            since = self._since
        return LogDropped(count=count, since=since, reason="queue_full") if count else None


def _is_end(event: Event) -> bool:
    """Whether it is the end of something that the queue has had the beginning of."""
    return isinstance(event, FileClosed) or (
        isinstance(event, SessionEnded) and event.session.user is not None
    )


def _encode(event: Event) -> bytes:
    try:
        return encode(event)
    except Exception:  # a mistake of ours must not end the log; it is told in our own
        _logger.exception("An event could not be written to the access log: %r", event)
        return b""
