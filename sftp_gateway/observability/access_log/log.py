"""The access log's queue and its writer thread.

Serving never waits for the log. `emit` queues an event and wakes the writer if it sleeps; the
writer encodes events, off the event loop, and passes the lines to the sinks.

Events that a client can cause without limit are rate-limited before they are queued
(rate_limit.py). If the sinks are slower than the events, the overflow policy applies:

| policy  | queued                        | effect                                               |
|---------|-------------------------------|------------------------------------------------------|
| `drop`  | `capacity` events             | each new event drops another, which is counted       |
| `block` | `capacity` / 2 of one user    | `congested` for that user until half of it is gone   |
|         | `capacity` of all             | `congested` for all users until half of it is gone   |
|         | 4 x `capacity`                | as with `drop`                                       |

While a user is congested, the server reads no requests from that user: `block` applies
backpressure to clients and never blocks the event loop. A user whose lines exceed a byte rate
(rate_limit.py) is congested too.

The owner with the most events in the queue loses events, minor ones first, so no user loses lines
to another user's flood. With `block`, ends of files and sessions are never dropped; their number is
bounded by that of open files and sessions. A `log_dropped` line marks each gap.
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

#: Multiple of `capacity` up to which `block` queues events of requests that are already running.
HARD_BOUND: Final = 4

#: Encoding holds the GIL for about 10 µs per event. After each batch the writer sleeps as long as
#: the batch took, at most _REST seconds: on a single CPU, releasing the GIL alone is not enough,
#: because the kernel would let the writer run for another 3 ms.
_BATCH: Final = 32
_REST: Final = 0.001

#: Seconds for which the woken writer collects events, because a wake-up costs more than an event.
#: It stops early when the queue reaches `capacity`.
_GATHER: Final = 0.01

#: Seconds between checks for users whose congestion has ended, and for summaries that are due.
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
        self._lock = threading.Lock()  # guards _waiting and _limiter
        self._capacity = capacity
        self._congested = False
        #: Congested users: too many queued events, or too many written bytes.
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
        """Queue an event. Thread-safe; never blocks and never raises."""
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
        # Last, so that the writer sees the event once it is woken.
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
        """Whether to stop reading requests from `user`, or from all clients."""
        return self._congested or user in self._over_queue_share or user in self._over_byte_rate

    def add_room_callback(self, callback: Callable[[], None]) -> None:
        """Register a callback; the writer thread calls it when the congestion of a user ends."""
        self._room_callbacks.append(callback)

    @property
    def emitted(self) -> int:
        """Number of events queued so far."""
        return self._taken + self._waiting.size

    @property
    def dropped(self) -> int:
        """Number of events dropped so far because the queue was full."""
        return self._drops.total

    @property
    def depth(self) -> int:
        """Number of events in the queue."""
        return self._waiting.size

    @property
    def suppressed(self) -> int:
        """Number of events suppressed by the rate limit so far."""
        return self._limiter.suppressed

    @property
    def write_errors(self) -> int:
        """Number of batches that a sink has failed to write so far."""
        return sum(output.errors for output in self._outputs)

    @property
    def lines_lost(self) -> int:
        """Number of lines that a sink has failed to write so far."""
        return sum(output.lost for output in self._outputs)

    def close(self, timeout: float) -> int:
        """Write the queued events, for at most `timeout` seconds; return how many remain unwritten.

        Events emitted from now on are dropped.
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
        """Queue the summaries of suppressed events that are due at `now`."""
        with self._lock:
            for summary in self._limiter.summaries(now):
                self._waiting.put(summary, owner=rate_limit.owner_of(summary), always=True)

    def _drain(self) -> None:
        # The gap comes after the events queued now and before those that arrive meanwhile.
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
        """Charge the written bytes to the byte rates of their users."""
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
            # With some reserve, so that the next line does not start the congestion again.
            if self._byte_rates[user].level(now) >= _CHECK_INTERVAL * rate_limit.BYTE_RATE:
                self._over_byte_rate.discard(user)
                ended = True
        if not ended:
            return
        for callback in self._room_callbacks:
            try:
                callback()
            except Exception:  # for instance, the event loop is closed; the log must continue
                _logger.exception("A callback of the access log failed")


@dataclass(slots=True)
class Output:
    """A sink and its counts of failed writes."""

    sink: Sink
    errors: int = 0
    lost: int = 0
    _missing: int = 0  # lost lines that no `log_dropped` line has reported yet
    _since: float = 0.0

    def write(self, lines: bytes, count: int) -> None:
        """Write `count` lines, or count them as lost. Never raises."""
        if self._missing:
            gap = LogDropped(count=self._missing, since=self._since, reason="write_failed")
            lines = encode(gap) + lines
        try:
            self.sink.write(lines)
        except Exception as error:  # usually OSError; the writer must continue
            self.errors += 1
            self.lost += count
            if not self._missing:
                self._since = unix_time()
                _logger.error("cannot write the access log to %s: %s", self.sink, error)
            self._missing += count
        else:
            self._missing = 0


class _DropCounter:
    """Counts dropped events. Thread-safe."""

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
        """The drops since the last call; None if there were none."""
        with self._lock:
            count, self._unreported = self._unreported, 0
            since = self._since
        return LogDropped(count=count, since=since, reason="queue_full") if count else None


def _is_end(event: Event) -> bool:
    """Whether the event ends a file or session whose start has been logged."""
    return isinstance(event, FileClosed) or (
        isinstance(event, SessionEnded) and event.session.user is not None
    )


def _encode(event: Event) -> bytes:
    try:
        return encode(event)
    except Exception:  # a bug here must not stop the access log; report it in the program log
        _logger.exception("An event could not be written to the access log: %r", event)
        return b""
