"""Limits how many events a client can cause in the access log.

An event is *minor* if a client can cause it at no cost and it does not concern the reading of a
file. A full queue drops minor events first. Those in `RATE_LIMITED` have a rate limit per session
and per owner (a user, or the address of a client that has not logged in). Events beyond it are
counted, and an `events_suppressed` line reports the counts.

All other events are written; a byte rate bounds them by backpressure (log.py).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

from sftp_gateway.observability.access_log.events import (
    EVENTS,
    CommandAnswered,
    CommandRefused,
    Connection,
    Denied,
    Event,
    EventsSuppressed,
    FolderListed,
    LoginRefused,
    NegotiationFailed,
    ReadFailed,
    Request,
    Session,
    SessionEnded,
    SessionEvent,
)
from sftp_gateway.token_bucket import TokenBucket

RATE_LIMITED: Final = frozenset({Denied, CommandRefused, CommandAnswered, LoginRefused, ReadFailed})

_MINOR: Final = RATE_LIMITED | {Connection, NegotiationFailed, FolderListed, Request}

#: Names of the minor events, for readers of log lines.
MINOR_EVENT_NAMES: Final = frozenset(kind.name for kind in EVENTS if kind in _MINOR)

#: Rate-limited events per second, and burst. The limit per session keeps one worker from using up
#: the limit of its user, which hundreds of workers may share.
SESSION_RATE: Final = 5
SESSION_BURST: Final = 100
OWNER_RATE: Final = 10
OWNER_BURST: Final = 1000

#: Bytes of log lines per second and user in one process, and burst. Ordinary readers stay below: a
#: process serves at most about 2,000 small files per second, which take 3 MB of lines.
BYTE_RATE: Final = 4 << 20
BYTE_BURST: Final = 32 << 20

#: Seconds between `events_suppressed` lines of a session.
INTERVAL: Final = 30.0

#: Maximum number of owners whose rate is tracked.
_MAX_OWNERS: Final = 4096


def owner_of(event: Event) -> str | None:
    """An event's owner: its user, `[ADDRESS]` before the login, None for the gateway itself."""
    if not isinstance(event, SessionEvent):
        return None
    session = event.session
    return session.user if session.user is not None else f"[{session.client_ip}]"


def is_minor(event: Event) -> bool:
    """Whether the event may be dropped in favour of another."""
    kind = type(event)
    return kind in _MINOR or (isinstance(event, SessionEnded) and event.session.user is None)


class EventLimiter:
    """The token buckets of rate-limited events. Not thread-safe; `now` is monotonic, in seconds."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str | None, TokenBucket] = OrderedDict()
        self._sessions: dict[str, _Session] = {}
        self._pending: set[str] = set()
        #: Number of events suppressed so far.
        self.suppressed = 0

    @property
    def pending(self) -> bool:
        """Whether any suppressed events have not been reported yet."""
        return bool(self._pending)

    def admits(self, event: SessionEvent, owner: str | None, now: float) -> bool:
        """Whether a rate-limited event may be written; if not, it is counted as suppressed."""
        name = event.session.session
        state = self._sessions.get(name)
        if state is None:
            state = self._sessions[name] = _Session(now)
        bucket = self._bucket_of(owner, now)
        if state.bucket.level(now) >= 1 and bucket.level(now) >= 1:
            state.bucket.spend(1, now)
            bucket.spend(1, now)
            return True
        if name not in self._pending:
            self._pending.add(name)
            state.due = now + INTERVAL
        state.count(event)
        self.suppressed += 1
        return False

    def _bucket_of(self, owner: str | None, now: float) -> TokenBucket:
        bucket = self._owners.get(owner)
        if bucket is None:
            bucket = TokenBucket(rate=OWNER_RATE, capacity=OWNER_BURST, now=now)
            self._owners[owner] = bucket
            if len(self._owners) > _MAX_OWNERS:
                self._owners.popitem(last=False)
        self._owners.move_to_end(owner)
        return bucket

    def summaries(self, now: float) -> list[EventsSuppressed]:
        """The summaries that are due; all of them if `now` is infinite."""
        due = [name for name in self._pending if now >= self._sessions[name].due]
        self._pending.difference_update(due)
        return [self._sessions[name].summary() for name in due]

    def ended(self, session: Session) -> list[EventsSuppressed]:
        """The last summary of a session, if there is anything to report."""
        state = self._sessions.pop(session.session, None)
        if state is None or session.session not in self._pending:
            return []
        self._pending.discard(session.session)
        return [state.summary()]


class _Session:
    """The token bucket of one session and its counts of suppressed events."""

    __slots__ = ("_counts", "_last", "_since", "bucket", "due")

    def __init__(self, now: float) -> None:
        self.bucket = TokenBucket(rate=SESSION_RATE, capacity=SESSION_BURST, now=now)
        self.due = 0.0
        self._counts: Counter[str] = Counter()

    def count(self, event: SessionEvent) -> None:
        if not self._counts:
            self._since = event.time
        self._last = event
        self._counts[event.name] += 1

    def summary(self) -> EventsSuppressed:
        counts, self._counts = self._counts, Counter()
        return EventsSuppressed(
            session=self._last.session,
            count=counts.total(),
            since=self._since,
            until=self._last.time,
            **counts,
        )
