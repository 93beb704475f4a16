"""What is served at this moment, and how many bytes of it in each minute, as the workers tell.

Each worker tells every two seconds which sessions it has, how much each has read, and what it has
open (server/session_reports.py); rates are the difference of two such pictures. Who sent how many
bytes by the minute comes of the same numbers. The last of a session, after the last picture of it,
come with its `session_end`.
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

#: Seconds after which a worker's picture is too old to be shown.
STALE: Final = 10.0

#: Sessions of which the bytes so far are remembered; and workers, more than there can be.
_MOST_SESSIONS: Final = 20_000
_MOST_WORKERS: Final = 256

#: Minutes that wait to be taken: without a store they are only dropped.
_MOST_WAITING: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A file that a session has open; `moving`: it was read since the picture before."""

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
    """All workers together. `total` sessions, of which `sessions` are the busiest."""

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
    """Everything of it; from any thread."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._now = now
        #: What began before counts from its first picture on: an observer may be a successor.
        self._since = now()
        self._lock = threading.Lock()
        self._pictures: OrderedDict[int, _Snapshot] = OrderedDict()
        self._sent: OrderedDict[str, int] = OrderedDict()  # by session
        self._throughput: Counter[tuple[int, str, str]] = Counter()

    # What is told

    def take(self, datagram: bytes) -> None:
        """A worker's picture, or a part of it. What is none is passed over."""
        try:
            told = json.loads(datagram)["live"]
            with self._lock:
                self._take(told)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            return

    def _take(self, told: dict[str, Any]) -> None:
        worker, clock = int(told["worker"]), self._clock()
        picture = self._pictures.get(worker) or _Snapshot(taken=clock)
        before = {each.session: each for each in picture.sessions}
        sessions = tuple(
            self._session(each, before, clock - picture.taken) for each in told["sessions"]
        )
        if told["more"]:
            picture.unfinished += sessions
        else:
            sent = {str(share): int(count) for share, count in told["sent"].items()}
            picture.started, picture.total = float(told["started"]), int(told["total"])
            picture.rate = self._count_shares(picture, sent, clock - picture.taken)
            picture.sessions, picture.unfinished = picture.unfinished + sessions, ()
            picture.sent, picture.taken = sent, clock
        self._pictures[worker] = picture
        self._pictures.move_to_end(worker)
        while len(self._pictures) > _MOST_WORKERS:
            self._pictures.popitem(last=False)

    def _session(
        self, told: dict[str, Any], before: Mapping[str, LiveSession], seconds: float
    ) -> LiveSession:
        name, user, sent = str(told["session"]), str(told["user"]), int(told["bytes"])
        started = float(told["started"])
        self._count_user(name, user, sent, started)
        earlier = before.get(name)
        served = {each.path: each.served for each in earlier.files} if earlier else {}
        return LiveSession(
            session=name,
            user=user,
            credential=str(told["credential"]),
            key_label=str(told["key_label"]),
            client_ip=str(told["client_ip"]),
            client_version=str(told["client_version"]),
            started=started,
            sent=sent,
            rate=(sent - earlier.sent) / seconds if earlier and seconds > 0 else 0.0,
            requests=int(told["requests"]),
            open=int(told["open"]),
            files=tuple(
                OpenFile(
                    share=str(share),
                    path=str(path),
                    size=int(size),
                    served=int(count),
                    moving=int(count) != served.get(path, 0),
                )
                for share, path, size, count in told["files"]
            ),
        )

    def ended(self, fields: Mapping[str, Any]) -> None:
        """A session has ended; the fields of its line."""
        name, user, sent = fields.get("session"), fields.get("user"), fields.get("bytes")
        if isinstance(name, str) and isinstance(user, str) and isinstance(sent, int):
            with self._lock:
                # As `count_user` does for one of which there never was a picture.
                started = self._began(fields)
                self._count_user(name, user, sent, started)
                self._sent.pop(name, None)

    def _began(self, fields: Mapping[str, Any]) -> float:
        try:
            ended = datetime.fromisoformat(fields["time"]).timestamp()
            return ended - float(fields["duration"])
        except (ValueError, KeyError, TypeError, OverflowError):
            return 0.0

    def _count_shares(self, picture: _Snapshot, sent: Mapping[str, int], seconds: float) -> float:
        """Count what a worker has sent since its last picture; bytes a second of it."""
        before = picture.sent
        if before is None:
            if picture.started < self._since:
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
        while len(self._sent) > _MOST_SESSIONS:
            self._sent.popitem(last=False)

    def _count(self, kind: str, name: str, count: int) -> None:
        key = int(self._now() // 60), kind, name
        if count > 0 and (key in self._throughput or len(self._throughput) < _MOST_WAITING):
            self._throughput[key] += count

    # What is asked

    @property
    def has_throughput(self) -> bool:
        """Whether there are bytes that `take_throughput` would give."""
        return bool(self._throughput)

    def take_throughput(self) -> dict[tuple[int, str, str], int]:
        """The bytes by (minute since 1970, "share" or "user", its name), since the last time."""
        with self._lock:
            taken, self._throughput = self._throughput, Counter()
        return dict(taken)

    def give_back(self, throughput: Mapping[tuple[int, str, str], int]) -> None:
        """What could not be written now, so that it is taken again."""
        with self._lock:
            for key, count in throughput.items():
                if len(self._throughput) < _MOST_WAITING:
                    self._throughput[key] += count

    def live(self, workers: Iterable[int]) -> Live:
        """What the workers of these pids serve; the busiest sessions first, then the newest."""
        with self._lock:
            fresh = {
                pid: picture
                for pid in workers
                if (picture := self._pictures.get(pid)) and self._clock() - picture.taken < STALE
            }
            sessions = [each for picture in fresh.values() for each in picture.sessions]
        sessions.sort(key=lambda each: (each.rate, each.open, each.started), reverse=True)
        return Live(
            sessions=tuple(sessions),
            total=sum(picture.total for picture in fresh.values()),
            rate=sum(picture.rate for picture in fresh.values()),
            by_worker={pid: picture.total for pid, picture in fresh.items()},
        )
