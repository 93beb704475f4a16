"""The sessions that exist, and the bytes sent per minute, as workers report them.

Each worker reports its sessions, what each has read and what it has open every two seconds
(server/session_reports.py); a rate is the difference of two reports. Bytes per minute are derived
from the same numbers. Those that a session sends after its last report come with its `session_end`.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

#: Seconds after which a worker's snapshot is no longer shown.
STALE: Final = 10.0

#: Sessions whose bytes are remembered; and workers, more than there can be.
_MAX_SESSIONS: Final = 20_000
_MAX_WORKERS: Final = 256

#: Entries that wait to be stored; further ones are dropped.
_MAX_PENDING: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A file that a session has open; `moving`: it was read since the previous snapshot."""

    share: str
    path: str  # escaped as in the access log
    size: int
    served: int
    moving: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSession:
    """A session that is logged in; times in seconds since 1970, `rate` in bytes a second."""

    session: str
    user: str
    credential: str  # a key's or authority's fingerprint, or "password"
    key_label: str  # empty where there is none
    client_ip: str
    client_version: str
    started: float
    sent: int
    rate: float
    requests: int
    open: int  # files, of which `files` are the first
    files: tuple[OpenFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The sessions of all workers: their number, and the busiest of them."""

    sessions: tuple[LiveSession, ...]
    total: int
    rate: float
    by_worker: Mapping[int, int]  # sessions, by pid


@dataclass(slots=True)
class _Snapshot:
    taken: float = 0.0  # by the clock that never goes back
    total: int = 0
    rate: float = 0.0
    started: float = 0.0
    sent: Mapping[str, int] | None = None  # by share; None before the first
    sessions: tuple[LiveSession, ...] = ()
    unfinished: tuple[LiveSession, ...] = ()


class SessionRegistry:
    """Thread-safe."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._now = now
        #: Sessions that are older count from their first snapshot: this may be a successor.
        self._since = now()
        self._lock = threading.Lock()
        self._snapshots: OrderedDict[int, _Snapshot] = OrderedDict()
        self._sent: OrderedDict[str, int] = OrderedDict()  # by session
        self._throughput: Counter[tuple[int, str, str]] = Counter()

    # Reports

    def update(self, datagram: bytes) -> None:
        """Process a worker's report, or a part of it. Malformed ones are ignored."""
        try:
            report = json.loads(datagram)["live"]
            with self._lock:
                self._update(report)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            return

    def _update(self, report: dict[str, Any]) -> None:
        worker, clock = int(report["worker"]), self._clock()
        snapshot = self._snapshots.get(worker) or _Snapshot(taken=clock)
        before = {each.session: each for each in snapshot.sessions}
        sessions = tuple(
            self._session(each, before, clock - snapshot.taken) for each in report["sessions"]
        )
        if report["more"]:
            snapshot.unfinished += sessions
        else:
            sent = {str(share): int(count) for share, count in report["sent"].items()}
            snapshot.started, snapshot.total = float(report["started"]), int(report["total"])
            snapshot.rate = self._count_shares(snapshot, sent, clock - snapshot.taken)
            snapshot.sessions, snapshot.unfinished = snapshot.unfinished + sessions, ()
            snapshot.sent, snapshot.taken = sent, clock
        self._snapshots[worker] = snapshot
        self._snapshots.move_to_end(worker)
        while len(self._snapshots) > _MAX_WORKERS:
            self._snapshots.popitem(last=False)

    def _session(
        self, report: dict[str, Any], before: Mapping[str, LiveSession], seconds: float
    ) -> LiveSession:
        name, user, sent = str(report["session"]), str(report["user"]), int(report["bytes"])
        started = float(report["started"])
        self._count_user(name, user, sent, started)
        earlier = before.get(name)
        served = {each.path: each.served for each in earlier.files} if earlier else {}
        return LiveSession(
            session=name,
            user=user,
            credential=str(report["credential"]),
            key_label=str(report["key_label"]),
            client_ip=str(report["client_ip"]),
            client_version=str(report["client_version"]),
            started=started,
            sent=sent,
            rate=(sent - earlier.sent) / seconds if earlier and seconds > 0 else 0.0,
            requests=int(report["requests"]),
            open=int(report["open"]),
            files=tuple(
                OpenFile(
                    share=str(share),
                    path=str(path),
                    size=int(size),
                    served=int(count),
                    moving=int(count) != served.get(path, 0),
                )
                for share, path, size, count in report["files"]
            ),
        )

    def ended(self, fields: Mapping[str, Any]) -> None:
        """Process the fields of a `session_end` line."""
        name, user, sent = fields.get("session"), fields.get("user"), fields.get("bytes")
        if isinstance(name, str) and isinstance(user, str) and isinstance(sent, int):
            with self._lock:
                # As for a session without any snapshot.
                started = self._began(fields)
                self._count_user(name, user, sent, started)
                self._sent.pop(name, None)

    def _began(self, fields: Mapping[str, Any]) -> float:
        try:
            ended = datetime.fromisoformat(fields["time"]).timestamp()
            return ended - float(fields["duration"])
        except (ValueError, KeyError, TypeError, OverflowError):
            return 0.0

    def _count_shares(self, snapshot: _Snapshot, sent: Mapping[str, int], seconds: float) -> float:
        """Count what a worker sent since its last snapshot; the rate in bytes per second."""
        before = snapshot.sent
        if before is None:
            if snapshot.started < self._since:
                return 0.0
            before = {}
        more = {share: count - before.get(share, 0) for share, count in sent.items()}
        for share, count in more.items():
            self._count("share", share, count)
        return max(0, sum(more.values())) / seconds if seconds > 0 else 0.0

    def _count_user(self, session: str, user: str, sent: int, started: float) -> None:
        before = self._sent.get(session, sent if started < self._since else 0)
        self._count("user", user, sent - before)
        self._sent[session] = max(sent, before)
        self._sent.move_to_end(session)
        while len(self._sent) > _MAX_SESSIONS:
            self._sent.popitem(last=False)

    def _count(self, kind: str, name: str, count: int) -> None:
        key = int(self._now() // 60), kind, name
        if count > 0 and (key in self._throughput or len(self._throughput) < _MAX_PENDING):
            self._throughput[key] += count

    # Queries

    @property
    def has_throughput(self) -> bool:
        """Whether `take_throughput` would return anything."""
        return bool(self._throughput)

    def take_throughput(self) -> dict[tuple[int, str, str], int]:
        """Bytes by (minute since 1970, "share" or "user", its name), since the last call."""
        with self._lock:
            taken, self._throughput = self._throughput, Counter()
        return dict(taken)

    def give_back(self, throughput: Mapping[tuple[int, str, str], int]) -> None:
        """Return what could not be stored, to be taken again."""
        with self._lock:
            for key, count in throughput.items():
                if len(self._throughput) < _MAX_PENDING:
                    self._throughput[key] += count

    def live(self, workers: Iterable[int]) -> Live:
        """The sessions of the workers with these pids, the busiest first, then the newest."""
        with self._lock:
            fresh = {
                pid: snapshot
                for pid in workers
                if (snapshot := self._snapshots.get(pid)) and self._clock() - snapshot.taken < STALE
            }
            sessions = [each for snapshot in fresh.values() for each in snapshot.sessions]
        sessions.sort(key=lambda each: (each.rate, each.open, each.started), reverse=True)
        return Live(
            sessions=tuple(sessions),
            total=sum(snapshot.total for snapshot in fresh.values()),
            rate=sum(snapshot.rate for snapshot in fresh.values()),
            by_worker={pid: snapshot.total for pid, snapshot in fresh.items()},
        )
