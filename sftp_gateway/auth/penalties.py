"""Penalties and bans of sources. No I/O and no clock.

As with PerSourcePenalties of sshd_config(5), each offence adds seconds to its source's score, which
decays by one per second. When the score reaches `minimum`, the source is banned until it is 0.
Unlike in sshd, each ban soon after another lasts twice as long, up to `maximum`.

A source is a block of addresses that many clients may share, so a ban for one wrong key would hit
all of them. A source with successful logins is therefore *trusted* while a session is open and for
`trust` seconds afterwards. Instead of being banned it is throttled to `trusted_rate` failing
connections per second; connections that log in are not counted.

    | state     | transitions                                      | connections            |
    |-----------|--------------------------------------------------|------------------------|
    | no score  | penalty -> scored                                | accepted               |
    | scored    | score reaches `minimum` -> banned; decays -> no  | accepted               |
    |           | score                                            |                        |
    | banned    | expires -> no score; the ban is remembered for   | refused; throttled if  |
    |           | `maximum` seconds                                | the source is trusted  |
    | any       | login, or lifted by an administrator -> no score | accepted               |
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final, Literal, TypeAlias

from sftp_gateway.auth.sources import Networks, SourceBlocks
from sftp_gateway.token_bucket import TokenBucket

#: Burst of a trusted source, in seconds of `trusted_rate`.
_TRUSTED_BURST: Final = 20.0

#: Keeps 2 ** times finite; bans reach `maximum` long before.
_MAX_DOUBLINGS: Final = 20

#: Why a ban has ended.
UnbanReason: TypeAlias = Literal["expired", "login", "evicted", "configuration", "lifted"]


class Offence(StrEnum):
    """The offence of a connection."""

    FAILED_LOGIN = "failed_login"
    UNKNOWN_USER = "unknown_user"
    NO_ATTEMPT = "no_attempt"
    GRACE_EXCEEDED = "grace_exceeded"
    PROTOCOL_ERROR = "protocol_error"
    CRASH = "crash"


class Verdict(StrEnum):
    """Whether a connection is accepted; the values appear in the log and the metrics."""

    ACCEPTED = "accepted"
    BANNED = "source_banned"
    THROTTLED = "source_throttled"
    TABLE_FULL = "penalties_full"


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyRules:
    """Costs of offences, and limits; in seconds, except `max_sources` and `trusted_rate`."""

    enabled: bool = True
    costs: Mapping[Offence, float]
    minimum: float
    maximum: float
    blocks: SourceBlocks
    exempt: Networks
    max_sources: int
    overflow: Literal["permissive", "deny-all"] = "permissive"
    trust: float
    trusted_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Banned:
    """A source has been banned, or throttled if `trusted`."""

    source: str
    kind: Offence  # the last one
    score: float
    seconds: float
    times: int  # bans in a row
    trusted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unbanned:
    """A ban has ended."""

    source: str
    reason: UnbanReason


@dataclass(slots=True, eq=False)
class _Entry:
    ends: float  # when the score is 0
    banned: bool = False
    times: int = 0
    due: float = -1.0  # its key in the heap


class Penalties:
    """The table of sources. `now` is monotonic, in seconds."""

    def __init__(self, rules: PenaltyRules) -> None:
        self._rules = rules
        self._entries: dict[str, _Entry] = {}
        #: Lower bounds of the times at which entries change state.
        self._heap: list[tuple[float, str]] = []
        self._trust = _Trust(rules)
        self._events: list[Banned | Unbanned] = []
        #: Penalties by offence, without those of exempt sources.
        self.penalty_counts: Counter[str] = Counter()
        self._bans: dict[str, Banned] = {}  # the oldest first

    def __len__(self) -> int:
        """The number of sources with a score or a remembered ban."""
        return len(self._entries)

    @property
    def banned(self) -> int:
        """The number of banned sources, including throttled ones."""
        return len(self._bans)

    def bans(self, now: float, limit: int, *, first: int = 0) -> list[tuple[Banned, float]]:
        """The oldest bans, starting with number `first`, each with its remaining seconds."""
        oldest = islice(self._bans.items(), first, first + limit)
        return [(ban, max(0.0, self._entries[block].ends - now)) for block, ban in oldest]

    def lift(self, addresses: Iterable[str] | None, limit: int) -> list[str]:
        """End the bans of these addresses and networks, or all bans, and reset their scores.

        Ends at most `limit` bans; returns their sources. Raises ValueError for a malformed address.
        """
        if addresses is None:
            found = islice(self._bans, limit)
        else:
            networks = Networks.parse(map(self._rules.blocks.of, addresses))
            found = islice(filter(networks.contains_network, self._bans), limit)
        lifted = list(found)
        for block in lifted:
            self._forget(block, "lifted")
        return lifted

    def drain_events(self) -> Iterator[Banned | Unbanned]:
        """The events since the last call, in order."""
        events, self._events = self._events, []
        return iter(events)

    def score(self, address: str, now: float) -> float:
        """The score of the address's source, in seconds."""
        entry = self._entries.get(self._rules.blocks.of(address))
        return max(0.0, entry.ends - now) if entry else 0.0

    # Connections and logins

    def check(self, address: str, now: float) -> Verdict:
        """Whether a connection from this address may be accepted."""
        rules = self._rules
        if not rules.enabled or rules.exempt.contains(address):
            return Verdict.ACCEPTED
        self.expire(now)
        block = rules.blocks.of(address)
        entry = self._entries.get(block)
        if entry is not None and not entry.banned:
            return Verdict.ACCEPTED
        full = rules.overflow == "deny-all" and len(self._entries) >= rules.max_sources
        if entry is None and not full:
            return Verdict.ACCEPTED
        allowance = self._trust.allowance(block, now)
        if allowance is None:
            return Verdict.TABLE_FULL if entry is None else Verdict.BANNED
        return Verdict.ACCEPTED if allowance.level(now) >= 1 else Verdict.THROTTLED

    def add_penalty(self, address: str, kind: Offence, now: float) -> None:
        """Add the penalty for an offence to the address's source."""
        rules = self._rules
        if not rules.enabled or rules.exempt.contains(address):
            return
        self.penalty_counts[kind.value] += 1
        cost = rules.costs[kind]
        if not cost:
            return
        self.expire(now)
        block = rules.blocks.of(address)
        allowance = self._trust.allowance(block, now)
        if allowance is not None:
            allowance.spend(1, now, owe=False)
        entry = self._entries.get(block) or self._enter(block, now)
        if entry is None:
            return
        score = min(rules.maximum, max(0.0, entry.ends - now) + cost)
        entry.ends = now + score
        if score >= rules.minimum and not entry.banned:
            seconds = min(rules.maximum, score * 2.0 ** min(entry.times, _MAX_DOUBLINGS))
            entry.banned, entry.times, entry.ends = True, entry.times + 1, now + seconds
            if entry.ends < entry.due:  # an earlier ban would have kept it in the table longer
                self._schedule(block, entry)
            self._bans[block] = Banned(
                source=block,
                kind=kind,
                score=score,
                seconds=seconds,
                times=entry.times,
                trusted=allowance is not None,
            )
            self._events.append(self._bans[block])

    def logged_in(self, address: str, now: float) -> None:
        """A login from this address succeeded, and its session is open."""
        block = self._rules.blocks.of(address)
        if self._trust.logged_in(block, now) and block in self._entries:
            self._forget(block, "login")

    def logged_out(self, address: str, now: float) -> None:
        """A session from this address has ended."""
        self._trust.logged_out(self._rules.blocks.of(address), now)

    def expire(self, now: float) -> None:
        """End bans and remove entries that have expired. Call it regularly."""
        while (block := self._first()) is not None and self._entries[block].due <= now:
            entry = self._entries[block]
            heapq.heappop(self._heap)
            if entry.banned:
                self._end_ban(block, entry, "expired")
                self._schedule(block, entry)
            else:
                del self._entries[block]

    def update(self, rules: PenaltyRules, now: float, *, open_sessions: Iterable[str] = ()) -> None:
        """Apply new rules; scores and bans are kept as far as the rules allow.

        `open_sessions` are the addresses of open sessions.
        """
        old, self._rules = self._rules, rules
        renamed = rules.blocks != old.blocks  # with other prefixes, blocks have other names
        self._trust.update(rules, now)
        if renamed:
            self._trust.start_again(map(rules.blocks.of, open_sessions), now)
        for block, entry in tuple(self._entries.items()):
            if renamed or not rules.enabled or rules.exempt.contains_network(block):
                self._forget(block, "configuration")
            else:
                entry.ends = min(entry.ends, now + rules.maximum)
        self._rebuild()
        while len(self._entries) > rules.max_sources:
            self._evict()

    # The table

    def _enter(self, block: str, now: float) -> _Entry | None:
        """A new entry; None if the table is full."""
        if len(self._entries) >= self._rules.max_sources:
            if self._rules.overflow == "deny-all":
                return None
            self._evict()
        entry = self._entries[block] = _Entry(ends=now)
        self._schedule(block, entry)
        return entry

    def _evict(self) -> None:
        """Remove the source whose penalty ends first, as `permissive` does in sshd."""
        block = self._first()
        if block is not None:
            heapq.heappop(self._heap)
            self._forget(block, "evicted")

    def _change(self, entry: _Entry) -> float:
        """When the ban ends, or the entry can be removed."""
        remembered = entry.times and not entry.banned
        return entry.ends + (self._rules.maximum if remembered else 0.0)

    def _schedule(self, block: str, entry: _Entry) -> None:
        entry.due = self._change(entry)
        heapq.heappush(self._heap, (entry.due, block))
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._rebuild()

    def _first(self) -> str | None:
        """The source whose entry changes first; updates stale keys at the top of the heap."""
        while self._heap:
            due, block = self._heap[0]
            entry = self._entries.get(block)
            if entry is None or entry.due != due:  # stale
                heapq.heappop(self._heap)
            elif self._change(entry) > due:  # a penalty was added meanwhile
                heapq.heappop(self._heap)
                self._schedule(block, entry)
            else:
                return block
        return None

    def _rebuild(self) -> None:
        self._heap = []
        for block, entry in self._entries.items():
            entry.due = self._change(entry)
            self._heap.append((entry.due, block))
        heapq.heapify(self._heap)

    def _forget(self, block: str, reason: UnbanReason) -> None:
        entry = self._entries.pop(block)
        if entry.banned:
            self._end_ban(block, entry, reason)

    def _end_ban(self, block: str, entry: _Entry, reason: UnbanReason) -> None:
        entry.banned = False
        del self._bans[block]
        self._events.append(Unbanned(source=block, reason=reason))


class _Trust:
    """The trusted sources and their allowances."""

    def __init__(self, rules: PenaltyRules) -> None:
        self._rules = rules
        #: Sources with open sessions, and the number of sessions.
        self._open: dict[str, tuple[TokenBucket, int]] = {}
        #: Trusted sources without, and the end of the trust; the oldest first.
        self._closed: dict[str, tuple[TokenBucket, float]] = {}

    def allowance(self, block: str, now: float) -> TokenBucket | None:
        """The allowance of a source; None if it is not trusted."""
        if block in self._open:
            return self._open[block][0]
        bucket, until = self._closed.get(block, (None, 0.0))
        return bucket if until > now else None

    def logged_in(self, block: str, now: float) -> bool:
        """A session has been opened; returns whether the source was not trusted before."""
        known = self.allowance(block, now)
        self._closed.pop(block, None)
        _, sessions = self._open.get(block, (None, 0))
        self._open[block] = known or self._bucket(now), sessions + 1
        return known is None

    def logged_out(self, block: str, now: float) -> None:
        """A session has ended."""
        bucket, sessions = self._open.pop(block, (None, 0))
        if bucket is None:
            return
        if sessions > 1:
            self._open[block] = bucket, sessions - 1
            return
        self._closed[block] = bucket, now + self._rules.trust
        if len(self._closed) > self._rules.max_sources:
            del self._closed[next(iter(self._closed))]

    def update(self, rules: PenaltyRules, now: float) -> None:
        self._rules = rules
        for bucket, _ in (*self._open.values(), *self._closed.values()):
            bucket.change(rate=rules.trusted_rate, capacity=self._capacity, now=now)

    def start_again(self, open_sessions: Iterable[str], now: float) -> None:
        self._open.clear()
        self._closed.clear()
        for block in open_sessions:
            self.logged_in(block, now)

    def _bucket(self, now: float) -> TokenBucket:
        return TokenBucket(rate=self._rules.trusted_rate, capacity=self._capacity, now=now)

    @property
    def _capacity(self) -> float:
        return max(1.0, self._rules.trusted_rate * _TRUSTED_BURST)
