"""Which connections are admitted under which settings, and the events about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sftp_gateway.auth.penalties import Offence
from sftp_gateway.observability.access_log.events import Event, SourceBanned, SourceUnbanned
from sftp_gateway.process.supervisor.admission import MAX_LISTED_BANS, AdmissionPolicy
from sftp_gateway.settings import PenaltySettings, Settings, UserSettings

HERE, THERE = "192.0.2.1", "198.51.100.1"


class PolicyHarness:
    """An admission policy with a manual clock and its events."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self.rng = 0.5
        self.events: list[Event] = []
        self.policy = AdmissionPolicy(
            Settings(**options),
            emit=self.events.append,
            clock=lambda: self.now,
            rng=lambda: self.rng,
        )

    def add(self, source: str = HERE, worker: int = 0) -> int:
        assert self.policy.rejection_reason(source) is None
        return self.policy.connections.add(worker, source)

    def log_in(self, source: str = HERE, worker: int = 0, user: str = "gvpocr") -> tuple[int, bool]:
        number = self.add(source, worker)
        return number, self.policy.logged_in(number, worker, user)

    def misbehave(self, kind: Offence, source: str = HERE, times: int = 1) -> None:
        for _ in range(times):
            self.policy.left(self.add(source), 0, kind)


@pytest.fixture
def make_policy(unconfigured: object) -> Callable[..., PolicyHarness]:
    return PolicyHarness


def test_by_default_500_workers_behind_one_address_are_admitted(
    make_policy: Callable[..., PolicyHarness],
) -> None:
    """A worker with a wrong key does not prevent the others from reconnecting."""
    fleet = make_policy()
    unauthenticated = [fleet.add() for _ in range(500)]
    for number in unauthenticated[1:]:
        assert fleet.policy.logged_in(number, 0, "gvpocr")
    fleet.policy.left(unauthenticated[0], 0, Offence.FAILED_LOGIN)
    for _ in range(1000):
        fleet.now += 0.4
        fleet.misbehave(Offence.FAILED_LOGIN)
    for number in unauthenticated[1:]:
        fleet.policy.left(number, 0, None)
    assert [fleet.log_in()[1] for _ in range(499)] == [True] * 499
    assert fleet.policy.refused == {}


def test_six_failed_logins_ban_an_unknown_source_for_30_seconds(
    make_policy: Callable[..., PolicyHarness],
) -> None:
    one = make_policy()
    one.misbehave(Offence.FAILED_LOGIN, times=6)
    assert one.policy.rejection_reason(HERE) == "source_banned"
    assert one.policy.rejection_reason(THERE) is None
    one.now = 29.9
    assert one.policy.rejection_reason(HERE) == "source_banned"
    one.now = 30.0
    one.policy.tick()
    assert one.policy.rejection_reason(HERE) is None
    banned, unbanned = one.events
    assert isinstance(banned, SourceBanned)
    assert (banned.source, banned.reason, banned.score) == (HERE, "failed_login", 30.0)
    assert (banned.times, banned.effect) == (1, "refused")
    assert 0 < banned.until - banned.time <= 30.01
    assert isinstance(unbanned, SourceUnbanned)
    assert one.policy.refused == {"source_banned": 2}
    assert one.policy.penalties == {"failed_login": 6}


def test_reports_about_foreign_connections_penalize_nobody(
    make_policy: Callable[..., PolicyHarness],
) -> None:
    one = make_policy(penalties=PenaltySettings(minimum=1.0))
    number = one.add(worker=1)
    one.policy.left(number, 0, Offence.CRASH)  # another worker's
    one.policy.left(number + 1, 1, Offence.CRASH)  # nobody's
    assert one.policy.penalties == {}
    one.policy.left(number, 1, Offence.CRASH)
    one.policy.left(number, 1, Offence.CRASH)  # a second time
    assert one.policy.penalties == {"crash": 1}


def test_bans_and_trust_outlive_a_worker_but_its_sessions_do_not(
    make_policy: Callable[..., PolicyHarness],
) -> None:
    one = make_policy(penalties=PenaltySettings(trust=100.0))
    one.misbehave(Offence.CRASH)
    one.log_in(THERE, worker=1)
    assert one.policy.worker_ended(1) == 1
    assert one.policy.rejection_reason(HERE) == "source_banned"
    one.now = 50.0
    one.misbehave(Offence.CRASH, THERE)
    assert one.policy.rejection_reason(THERE) is None
    one.now = 120.0  # `trust` seconds after its last session
    assert one.policy.rejection_reason(THERE) == "source_banned"


def test_only_allowed_addresses_may_connect(make_policy: Callable[..., PolicyHarness]) -> None:
    one = make_policy(allow_from=("192.0.2.0/24", "2001:db8::/32"))
    assert one.policy.rejection_reason(HERE) is None
    assert one.policy.rejection_reason("2001:db8::1") is None
    assert one.policy.rejection_reason(THERE) == "address_not_allowed"
    assert one.policy.rejection_reason("2001:db9::1") == "address_not_allowed"
    one.policy.configure(Settings())
    assert one.policy.rejection_reason(THERE) is None


def test_connections_per_source_are_limited(make_policy: Callable[..., PolicyHarness]) -> None:
    one = make_policy(max_connections_per_source=2)
    number, _ = one.log_in("2001:db8::1")
    one.log_in("2001:db8::2")
    assert one.policy.rejection_reason("2001:db8::3") == "max_connections_per_source"
    assert one.policy.rejection_reason("2001:db8:0:1::3") is None
    one.policy.left(number, 0, None)
    assert one.policy.rejection_reason("2001:db8::3") is None


def test_unauthenticated_connections_per_source_are_limited(
    make_policy: Callable[..., PolicyHarness],
) -> None:
    one = make_policy(max_startups_per_source=2)
    numbers = [one.add() for _ in range(2)]
    assert one.policy.rejection_reason(HERE) == "max_startups_per_source"
    assert one.policy.rejection_reason(THERE) is None
    assert one.policy.logged_in(numbers[0], 0, "gvpocr")
    assert one.policy.rejection_reason(HERE) is None


def test_unauthenticated_connections_are_dropped_at_random(
    make_policy: Callable[..., PolicyHarness],
) -> None:
    one = make_policy(max_startups="2:40:4")
    numbers = [one.add() for _ in range(2)]
    one.rng = 0.39
    assert one.policy.rejection_reason(HERE) == "max_startups"
    one.rng = 0.41
    numbers += [one.add()]
    one.rng = 0.71
    numbers += [one.add()]
    one.rng = 0.99
    assert one.policy.rejection_reason(HERE) == "max_startups"
    for number in numbers[:3]:
        assert one.policy.logged_in(number, 0, "gvpocr")
    assert one.policy.rejection_reason(HERE) is None


def test_sessions_per_user_are_limited(make_policy: Callable[..., PolicyHarness]) -> None:
    one = make_policy(
        max_sessions_per_user=2,
        users={"gvpocr": UserSettings(), "ana": UserSettings(max_sessions=1)},
    )
    first, _ = one.log_in(worker=0)
    assert one.log_in(THERE, worker=1)[1]
    too_many, accepted = one.log_in("203.0.113.1", worker=1)
    assert not accepted
    assert one.log_in(user="ana")[1]
    assert not one.log_in(user="ana")[1]
    # A refused connection uses no session, even before it is closed.
    one.policy.left(first, 0, None)
    assert one.log_in()[1]
    one.policy.left(too_many, 1, None)
    assert not one.log_in()[1]
    assert one.policy.refused == {"max_sessions_per_user": 3}


def test_a_limited_users_bandwidth_is_divided_by_sessions(
    make_policy: Callable[..., PolicyHarness],
) -> None:
    limited = UserSettings(bandwidth_limit=1_000_000)
    one = make_policy(users={"gvpocr": limited, "ana": UserSettings()})
    numbers = [one.log_in(worker=worker)[0] for worker in (0, 0, 0, 1)]
    one.log_in(worker=2, user="ana")
    assert one.policy.session_fractions() == {0: {"gvpocr": 0.75}, 1: {"gvpocr": 0.25}}
    one.policy.left(numbers[3], 1, None)
    assert one.policy.session_fractions() == {0: {"gvpocr": 1.0}}


def test_a_new_configuration_keeps_bans_and_counts(
    make_policy: Callable[..., PolicyHarness],
) -> None:
    one = make_policy()
    one.misbehave(Offence.CRASH)
    for host in range(3):
        one.add(f"203.0.113.{host}")
    one.policy.configure(Settings(max_connections_per_source=3))
    assert one.policy.rejection_reason(HERE) == "source_banned"
    one.policy.configure(Settings(max_connections_per_source=3, source_ipv4_prefix=24))
    assert one.policy.rejection_reason("203.0.113.9") == "max_connections_per_source"
    assert one.policy.rejection_reason(HERE) is None  # the blocks have changed
    assert [type(event) for event in one.events] == [SourceBanned, SourceUnbanned]


def test_bans_are_listed_with_their_remaining_time(
    make_policy: Callable[..., PolicyHarness],
) -> None:
    one = make_policy()
    one.misbehave(Offence.FAILED_LOGIN, times=6)
    one.log_in(THERE)
    one.misbehave(Offence.UNKNOWN_USER, THERE, times=6)
    one.now += 10
    here, there = one.policy.bans()
    assert (here.source, here.reason, here.effect, here.seconds) == (
        HERE, "failed_login", "refused", 20.0,
    )  # fmt: skip
    assert (there.source, there.effect, there.times) == (THERE, "throttled", 1)
    one.now += 21
    one.policy.tick()
    assert one.policy.bans() == ()


def test_listed_bans_are_bounded(make_policy: Callable[..., PolicyHarness]) -> None:
    one = make_policy()
    for number in range(MAX_LISTED_BANS + 5):
        one.misbehave(Offence.CRASH, f"192.0.2.{number}")
    assert len(one.policy.bans()) == MAX_LISTED_BANS
    assert one.policy.banned == MAX_LISTED_BANS + 5
