"""Which connections are admitted: allowed addresses, bans, and limits on numbers.

Decides from what is open (`connections`) and from past offences (`auth.penalties`), for all
workers together. The clock is handed in.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from sftp_gateway.auth.penalties import Banned, Offence, Penalties, PenaltyRules, Verdict
from sftp_gateway.auth.sources import Networks, SourceBlocks
from sftp_gateway.observability.access_log.events import Event, SourceBanned, SourceUnbanned
from sftp_gateway.observability.gateway_state import Ban
from sftp_gateway.process.supervisor.connection_table import ConnectionRecord, ConnectionTable
from sftp_gateway.process.supervisor.early_drop import RandomEarlyDrop
from sftp_gateway.server.sftp.client_versions import ATTRIBUTES_EXPIRE
from sftp_gateway.settings import Settings

#: Not for secrets.
_rng: Final = random.SystemRandom().random

#: Seconds for which a client whose last connection was interrupted has to wait. A program that
#: reopens a file earlier, which was being read through sshfs, would get too few bytes and no error.
HOLD: Final = ATTRIBUTES_EXPIRE

#: Bans listed on the status page; there may be tens of thousands.
MAX_LISTED_BANS: Final = 50


class AdmissionPolicy:
    """The limits of the current configuration; counts rejections."""

    def __init__(
        self,
        settings: Settings,
        *,
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = _rng,
    ) -> None:
        self._settings = settings
        self._emit = emit
        self._clock = clock
        self._rng = rng
        rules = _rules(settings)
        self._penalties = Penalties(rules)
        self._allowed = Networks.parse(settings.allow_from)
        self._early_drop = RandomEarlyDrop.parse(settings.max_startups)
        self._blocks = rules.blocks
        self.connections = ConnectionTable(rules.blocks.of)
        self._held_until: dict[str, float] = {}
        self.refused: Counter[str] = Counter()

    def configure(self, settings: Settings) -> None:
        """Apply other settings; what is known of sources stays."""
        self._settings = settings
        rules = _rules(settings)
        self._allowed = Networks.parse(settings.allow_from)
        self._early_drop = RandomEarlyDrop.parse(settings.max_startups)
        if rules.blocks != self._blocks:
            self._blocks = rules.blocks
            self.connections.regroup(rules.blocks.of)
        self._penalties.update(
            rules, self._clock(), open_sessions=self.connections.logged_in_sources()
        )
        self._report_bans()

    # Connections

    def rejection_reason(self, source: str) -> str | None:
        """Why a connection from this address is rejected; None if it is admitted."""
        reason = self._reason(source)
        if reason is not None:
            self.refused[reason] += 1
        return reason

    def _reason(self, source: str) -> str | None:
        settings, connections = self._settings, self.connections
        if self._allowed and not self._allowed.contains(source):
            return "address_not_allowed"
        answer = self._penalties.check(source, self._clock())
        if answer is not Verdict.ACCEPTED:
            return answer.value
        if connections.total >= settings.max_connections:
            return "max_connections"
        total, unauthenticated = connections.block_counts(source)
        if total >= settings.max_connections_per_source:
            return "max_connections_per_source"
        if unauthenticated >= settings.max_startups_per_source:
            return "max_startups_per_source"
        if self._early_drop.drops(connections.unauthenticated, self._rng):
            return "max_startups"
        return None

    def logged_in(self, number: int, worker: int, user: str, credential: str = "") -> bool:
        """A worker's connection has logged in; False if it has to be closed again."""
        full = sum(self.connections.user_counts(user).values()) >= self._most_sessions(user)
        record = self.connections.logged_in(number, worker, "" if full else user, credential)
        if record is None:
            return True  # it has ended meanwhile
        self._penalties.logged_in(record.source, self._clock())
        self._report_bans()
        if full:
            self.refused["max_sessions_per_user"] += 1
        return not full

    def _most_sessions(self, user: str) -> int:
        options = self._settings.users.get(user)
        own = options.max_sessions if options else None
        return self._settings.max_sessions_per_user if own is None else own

    def left(self, number: int, worker: int, kind: Offence | None) -> None:
        """A worker's connection has ended; `kind` is an offence to penalise."""
        record = self.connections.remove(number, worker)
        if record is None:
            return
        self._gone(record)
        if kind is not None:
            self._penalties.add_penalty(record.source, kind, self._clock())
            self._report_bans()

    def interrupted(self, number: int, worker: int) -> None:
        """A worker's connection ends while its client has files open."""
        record = self.connections.get(number, worker)
        if record is not None:
            self._hold(record)

    def worker_ended(self, worker: int) -> int:
        """All its connections have ended with it, without an offence; how many."""
        self.worker_lost(worker)
        left = self.connections.worker_ended(worker)
        for record in left:
            self._gone(record)
        return len(left)

    def worker_lost(self, worker: int) -> None:
        """All its connections end now; its process may still run."""
        for record in self.connections.records_of(worker):
            self._hold(record)

    def _hold(self, record: ConnectionRecord) -> None:
        if record.user is not None:
            self._held_until[record.source] = self._clock() + HOLD

    def hold_seconds(self, source: str) -> float:
        """Seconds for which the next connection from this address has to wait."""
        until = self._held_until.get(source)
        return max(0.0, until - self._clock()) if until is not None else 0.0

    def _gone(self, record: ConnectionRecord) -> None:
        if record.user is not None:
            self._penalties.logged_out(record.source, self._clock())

    # Reporting

    def session_fractions(self) -> dict[int, dict[str, float]]:
        """Each worker's fraction of the sessions of each user with a bandwidth limit."""
        found: dict[int, dict[str, float]] = {}
        for user, options in self._settings.users.items():
            if options.bandwidth_limit is not None:
                by_worker = self.connections.user_counts(user)
                total = sum(by_worker.values())
                for worker, count in by_worker.items():
                    found.setdefault(worker, {})[user] = count / total
        return found

    def tick(self) -> None:
        """Let bans expire; call it regularly."""
        now = self._clock()
        self._penalties.expire(now)
        self._held_until = {s: until for s, until in self._held_until.items() if until > now}
        self._report_bans()

    @property
    def banned(self) -> int:
        """The number of banned sources."""
        return self._penalties.banned

    def lift(self, addresses: Iterable[str] | None, limit: int) -> list[str]:
        """Lift bans, as `Penalties.lift`."""
        lifted = self._penalties.lift(addresses, limit)
        self._report_bans()
        return lifted

    def bans(self, first: int = 0, limit: int = MAX_LISTED_BANS) -> tuple[Ban, ...]:
        """The sources that are banned longest, from number `first` on."""
        return tuple(
            Ban(
                source=ban.source,
                reason=ban.kind.value,
                times=ban.times,
                effect=_effect(ban),
                seconds=seconds,
            )
            for ban, seconds in self._penalties.bans(self._clock(), limit, first=first)
        )

    @property
    def penalties(self) -> Mapping[str, int]:
        """How many penalties there were, by kind."""
        return self._penalties.penalty_counts

    def _report_bans(self) -> None:
        for event in self._penalties.drain_events():
            if isinstance(event, Banned):
                self._emit(
                    SourceBanned(
                        source=event.source,
                        reason=event.kind.value,
                        score=event.score,
                        until=time.time() + event.seconds,
                        times=event.times,
                        effect=_effect(event),
                    )
                )
            else:
                self._emit(SourceUnbanned(source=event.source, reason=event.reason))


def _effect(ban: Banned) -> str:
    return "throttled" if ban.trusted else "refused"


def _rules(settings: Settings) -> PenaltyRules:
    options = settings.penalties
    return PenaltyRules(
        enabled=options.enabled,
        costs={kind: getattr(options, kind.value) for kind in Offence},
        minimum=options.minimum,
        maximum=options.maximum,
        blocks=SourceBlocks(
            ipv4_prefix=settings.source_ipv4_prefix, ipv6_prefix=settings.source_ipv6_prefix
        ),
        exempt=Networks.parse(options.exempt),
        max_sources=options.max_sources,
        overflow=options.overflow,
        trust=options.trust,
        trusted_rate=options.trusted_rate,
    )
