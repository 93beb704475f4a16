"""Penalties, bans and trusted sources."""

from __future__ import annotations

from typing import Any

import pytest

from sftp_gateway.auth.penalties import Banned, Offence, Penalties, PenaltyRules, Unbanned, Verdict
from sftp_gateway.auth.sources import Networks, SourceBlocks
from sftp_gateway.observability.vocabulary import CONNECTION_REFUSALS, PENALTY_KINDS

HERE, THERE = "192.0.2.1", "192.0.2.2"
COSTS = {
    Offence.FAILED_LOGIN: 5.0,
    Offence.UNKNOWN_USER: 5.0,
    Offence.NO_ATTEMPT: 1.0,
    Offence.GRACE_EXCEEDED: 20.0,
    Offence.PROTOCOL_ERROR: 10.0,
    Offence.CRASH: 90.0,
}


def rules(**changed: Any) -> PenaltyRules:
    return PenaltyRules(
        **{
            "costs": COSTS,
            "minimum": 15.0,
            "maximum": 600.0,
            "blocks": SourceBlocks(),
            "exempt": Networks(),
            "max_sources": 100,
            "trust": 1000.0,
            "trusted_rate": 1.0,
            **changed,
        }
    )


def ban(penalties: Penalties, address: str = HERE, now: float = 0.0) -> None:
    penalties.add_penalty(address, Offence.GRACE_EXCEEDED, now)


def test_penalties_add_up_until_a_source_is_banned() -> None:
    penalties = Penalties(rules())
    for _ in range(2):
        penalties.add_penalty(HERE, Offence.FAILED_LOGIN, 0.0)
        assert penalties.check(HERE, 0.0) is Verdict.ACCEPTED
    penalties.add_penalty(HERE, Offence.FAILED_LOGIN, 0.0)
    assert penalties.check(HERE, 0.0) is Verdict.BANNED
    assert penalties.check(THERE, 0.0) is Verdict.ACCEPTED
    assert list(penalties.drain_events()) == [
        Banned(
            source=HERE, kind=Offence.FAILED_LOGIN, score=15.0, seconds=15.0, times=1, trusted=False
        )
    ]
    assert penalties.banned == 1
    assert penalties.penalty_counts == {"failed_login": 3}


@pytest.mark.parametrize("kind", list(Offence))
def test_each_offence_has_its_own_penalty(kind: Offence) -> None:
    penalties = Penalties(rules())
    penalties.add_penalty(HERE, kind, 100.0)
    assert penalties.score(HERE, 100.0) == COSTS[kind]


def test_penalties_decay_and_slow_failures_are_never_banned() -> None:
    penalties = Penalties(rules())
    for now in range(0, 100_000, 5):
        penalties.add_penalty(HERE, Offence.FAILED_LOGIN, float(now))
        assert penalties.score(HERE, now + 2.0) == pytest.approx(3.0)
    assert penalties.banned == 0


def test_a_ban_expires() -> None:
    penalties = Penalties(rules())
    ban(penalties)
    assert penalties.check(HERE, 19.9) is Verdict.BANNED
    assert penalties.check(HERE, 20.0) is Verdict.ACCEPTED
    assert list(penalties.drain_events())[1:] == [Unbanned(source=HERE, reason="expired")]
    assert penalties.banned == 0


def test_offences_during_a_ban_extend_it() -> None:
    penalties = Penalties(rules())
    ban(penalties)
    penalties.add_penalty(HERE, Offence.FAILED_LOGIN, 1.0)
    assert penalties.check(HERE, 24.9) is Verdict.BANNED
    assert penalties.check(HERE, 25.0) is Verdict.ACCEPTED
    assert sum(isinstance(each, Banned) for each in penalties.drain_events()) == 1


def test_a_score_never_exceeds_the_maximum() -> None:
    penalties = Penalties(rules(maximum=100.0))
    for _ in range(50):
        ban(penalties)
        assert penalties.score(HERE, 0.0) <= 100.0
    assert penalties.check(HERE, 100.0) is Verdict.ACCEPTED


def test_each_ban_is_twice_as_long_up_to_the_maximum() -> None:
    penalties = Penalties(rules(maximum=100.0))
    now, lengths = 0.0, []
    for _ in range(5):
        ban(penalties, now=now)
        lengths.append(penalties.score(HERE, now))
        now += lengths[-1]
        assert penalties.check(HERE, now) is Verdict.ACCEPTED
    assert lengths == [20.0, 40.0, 80.0, 100.0, 100.0]


def test_ban_growth_is_reset_after_the_maximum() -> None:
    penalties = Penalties(rules(maximum=100.0))
    ban(penalties)
    ban(penalties, now=119.0)  # 99 seconds after the end of the first
    assert penalties.score(HERE, 119.0) == 40.0
    penalties.expire(159.0)
    assert len(penalties) == 1
    penalties.expire(259.0)
    assert len(penalties) == 0
    ban(penalties, now=259.0)
    assert penalties.score(HERE, 259.0) == 20.0


def test_ipv6_is_banned_by_network_and_ipv4_by_address() -> None:
    penalties = Penalties(rules())
    ban(penalties, "2001:db8:0:7::1")
    assert penalties.check("2001:db8:0:7:ffff::2", 0.0) is Verdict.BANNED
    assert penalties.check("2001:db8:0:8::1", 0.0) is Verdict.ACCEPTED
    ban(penalties, HERE)
    assert penalties.check(THERE, 0.0) is Verdict.ACCEPTED
    assert penalties.check(f"::ffff:{HERE}", 0.0) is Verdict.BANNED


def test_blocks_may_be_wider() -> None:
    penalties = Penalties(rules(blocks=SourceBlocks(ipv4_prefix=24, ipv6_prefix=48)))
    ban(penalties)
    assert penalties.check(THERE, 0.0) is Verdict.BANNED
    assert [each.source for each in penalties.drain_events()] == ["192.0.2.0/24"]


def test_an_exempt_source_gets_no_penalty() -> None:
    penalties = Penalties(rules(exempt=Networks.parse(["192.0.2.0/31", "2001:db8::/32"])))
    for address in (HERE, "2001:db8::1"):
        ban(penalties, address)
        assert penalties.check(address, 0.0) is Verdict.ACCEPTED
    assert (len(penalties), penalties.penalty_counts) == (0, {})
    ban(penalties, THERE)
    assert penalties.check(THERE, 0.0) is Verdict.BANNED


def test_without_penalties_nothing_is_banned() -> None:
    penalties = Penalties(rules(enabled=False))
    ban(penalties)
    assert penalties.check(HERE, 0.0) is Verdict.ACCEPTED


def test_an_offence_without_penalty_is_only_counted() -> None:
    penalties = Penalties(rules(costs={**COSTS, Offence.NO_ATTEMPT: 0.0}))
    penalties.add_penalty(HERE, Offence.NO_ATTEMPT, 0.0)
    assert (len(penalties), penalties.penalty_counts) == (0, {"no_attempt": 1})


# Trust


def test_a_worker_with_a_wrong_key_locks_out_no_other_on_its_address() -> None:
    """499 workers have idle sessions, the 500th retries all day, and workers reconnect."""
    penalties = Penalties(rules(trusted_rate=5.0))
    for _ in range(499):
        penalties.logged_in(HERE, 0.0)
    now = 0.0
    while now < 86_400:
        penalties.add_penalty(HERE, Offence.FAILED_LOGIN, now)
        assert penalties.check(HERE, now) is Verdict.ACCEPTED
        now += 0.4  # systemd's RestartSec of 100 ms plus a login
    assert penalties.banned == 1  # still reported
    assert [e.trusted for e in penalties.drain_events() if isinstance(e, Banned)] == [True]


def test_a_trusted_source_that_fails_often_is_throttled() -> None:
    penalties = Penalties(rules(trusted_rate=2.0))
    penalties.logged_in(HERE, 0.0)
    accepted = 0
    for step in range(10_000):  # 100 a second
        now = step / 100
        if penalties.check(HERE, now) is Verdict.ACCEPTED:
            accepted += 1
            penalties.add_penalty(HERE, Offence.FAILED_LOGIN, now)
        else:
            assert penalties.check(HERE, now) is Verdict.THROTTLED
    assert accepted <= 2.0 * 100 + 2.0 * 20 + 3  # rate, burst, and the attempts before the ban
    assert accepted >= 200


def test_successful_logins_use_no_failure_allowance() -> None:
    penalties = Penalties(rules())
    penalties.logged_in(HERE, 0.0)
    ban(penalties)
    for _ in range(1000):
        assert penalties.check(HERE, 0.0) is Verdict.ACCEPTED
        penalties.logged_in(HERE, 0.0)


def test_a_first_login_ends_a_ban() -> None:
    penalties = Penalties(rules())
    ban(penalties)
    penalties.logged_in(HERE, 1.0)  # on a connection that was open before
    assert penalties.check(HERE, 1.0) is Verdict.ACCEPTED
    assert list(penalties.drain_events())[1:] == [Unbanned(source=HERE, reason="login")]


def test_a_login_does_not_reset_the_penalties_of_a_trusted_source() -> None:
    penalties = Penalties(rules())
    penalties.logged_in(HERE, 0.0)
    for _ in range(100):
        ban(penalties)
        penalties.logged_in(HERE, 0.0)
    assert penalties.check(HERE, 0.0) is Verdict.THROTTLED


def test_trust_expires_after_the_last_session() -> None:
    penalties = Penalties(rules(maximum=10_000.0))
    for _ in range(2):
        penalties.logged_in(HERE, 0.0)
    penalties.logged_out(HERE, 5.0)
    ban(penalties, now=5000.0)
    assert penalties.check(HERE, 5000.0) is Verdict.ACCEPTED
    penalties.logged_out(HERE, 5000.0)
    ban(penalties, now=5999.0)
    assert penalties.check(HERE, 5999.0) is Verdict.ACCEPTED
    assert penalties.check(HERE, 6000.0) is Verdict.BANNED


def test_trust_belongs_to_one_source() -> None:
    penalties = Penalties(rules())
    penalties.logged_in(HERE, 0.0)
    ban(penalties, THERE)
    assert penalties.check(THERE, 0.0) is Verdict.BANNED


# Bounds


def test_trusted_sources_without_sessions_are_bounded() -> None:
    penalties = Penalties(rules(max_sources=2))
    hosts = [f"192.0.2.{host}" for host in range(10, 14)]
    penalties.logged_in(hosts[0], 0.0)  # stays open
    for host in hosts[1:]:
        penalties.logged_in(host, 0.0)
        penalties.logged_out(host, 0.0)
    answers = []
    for host in hosts:
        ban(penalties, host)
        answers.append(penalties.check(host, 0.0))
    assert answers == [Verdict.ACCEPTED, Verdict.BANNED, Verdict.ACCEPTED, Verdict.ACCEPTED]


def test_a_full_table_evicts_the_ban_that_expires_first() -> None:
    penalties = Penalties(rules(max_sources=2))
    penalties.add_penalty("192.0.2.10", Offence.CRASH, 0.0)
    ban(penalties, "192.0.2.11")
    penalties.add_penalty("192.0.2.12", Offence.CRASH, 0.0)
    assert len(penalties) == 2
    assert penalties.check("192.0.2.10", 0.0) is Verdict.BANNED
    assert penalties.check("192.0.2.11", 0.0) is Verdict.ACCEPTED
    assert penalties.check("192.0.2.12", 0.0) is Verdict.BANNED
    assert Unbanned(source="192.0.2.11", reason="evicted") in penalties.drain_events()
    assert penalties.banned == 2


def test_a_full_table_can_refuse_unknown_sources() -> None:
    penalties = Penalties(
        rules(max_sources=1, overflow="deny-all", exempt=Networks.parse(["198.51.100.0/24"]))
    )
    penalties.logged_in("203.0.113.1", 0.0)
    ban(penalties, HERE)
    ban(penalties, THERE)
    assert len(penalties) == 1
    assert penalties.check(THERE, 0.0) is Verdict.TABLE_FULL
    assert penalties.check("198.51.100.1", 0.0) is Verdict.ACCEPTED
    assert penalties.check("203.0.113.1", 0.0) is Verdict.ACCEPTED
    assert penalties.check(THERE, 1000.0) is Verdict.ACCEPTED


# New rules


def test_bans_and_trust_survive_new_rules() -> None:
    penalties = Penalties(rules())
    ban(penalties)
    penalties.logged_in(THERE, 0.0)
    penalties.update(rules(minimum=50.0), 1.0)
    assert penalties.check(HERE, 1.0) is Verdict.BANNED
    ban(penalties, THERE, 1.0)
    assert penalties.check(THERE, 1.0) is Verdict.ACCEPTED
    assert penalties.score(THERE, 1.0) == 20.0
    assert penalties.banned == 1


def test_new_rules_apply_to_existing_bans() -> None:
    penalties = Penalties(rules())
    for host in range(10):
        penalties.add_penalty(f"192.0.2.{host}", Offence.CRASH, 0.0)
    penalties.update(rules(exempt=Networks.parse(["192.0.2.0/30"])), 0.0)
    assert penalties.banned == 6
    penalties.update(rules(max_sources=3), 0.0)
    assert (penalties.banned, len(penalties)) == (3, 3)
    penalties.update(rules(maximum=30.0), 0.0)
    penalties.expire(30.0)
    assert penalties.banned == 0
    ban(penalties, now=30.0)
    penalties.update(rules(enabled=False), 30.0)
    assert (penalties.banned, len(penalties)) == (0, 0)


def test_a_new_block_size_resets_all_but_open_sessions() -> None:
    penalties = Penalties(rules())
    ban(penalties)
    penalties.logged_in(THERE, 0.0)
    wider = rules(blocks=SourceBlocks(ipv4_prefix=24))
    penalties.update(wider, 0.0, open_sessions=[THERE])
    assert len(penalties) == penalties.banned == 0
    ban(penalties)
    assert penalties.check(HERE, 0.0) is Verdict.ACCEPTED  # a neighbour has a session
    penalties.logged_out(THERE, 0.0)
    assert penalties.check(HERE, 1000.0) is Verdict.ACCEPTED  # its trust has expired
    ban(penalties, now=1000.0)
    assert penalties.check(HERE, 1000.0) is Verdict.BANNED


def test_every_penalty_word_is_in_the_log_and_metrics_vocabulary() -> None:
    assert {kind.value for kind in Offence} == PENALTY_KINDS.keys()
    assert {each.value for each in Verdict} - {"accepted"} < CONNECTION_REFUSALS.keys()


def test_lifting_a_ban_resets_its_history() -> None:
    penalties = Penalties(rules())
    for _ in range(2):
        ban(penalties)
        penalties.expire(1000.0)
    ban(penalties)
    ban(penalties, THERE)
    assert penalties.lift([HERE, "198.51.100.1"], 10) == [HERE]
    assert penalties.check(HERE, 0.0) is Verdict.ACCEPTED
    assert penalties.check(THERE, 0.0) is Verdict.BANNED
    assert list(penalties.drain_events())[-1] == Unbanned(source=HERE, reason="lifted")
    assert penalties.lift([HERE], 10) == []
    ban(penalties)
    assert [each.times for each, _ in penalties.bans(0.0, 10) if each.source == HERE] == [1]


@pytest.mark.parametrize(
    ("named", "lifted"),
    [
        (["192.0.2.0/24"], [HERE, THERE]),
        (["2001:db8::7"], ["2001:db8::/64"]),
        (["2001:db8::/64"], ["2001:db8::/64"]),
        (["2001:db8::/80"], []),  # less than what is banned
        (["::ffff:192.0.2.1"], [HERE]),
        (None, [HERE, THERE, "2001:db8::/64"]),
        ([], []),
    ],
)
def test_bans_are_lifted_by_address_and_network(named: list[str] | None, lifted: list[str]) -> None:
    penalties = Penalties(rules())
    for address in (HERE, THERE, "2001:db8::1"):
        ban(penalties, address)
    assert penalties.lift(named, 10) == lifted
    assert penalties.banned == 3 - len(lifted)


def test_bans_are_lifted_and_listed_in_batches() -> None:
    penalties = Penalties(rules())
    for number in range(10):
        ban(penalties, f"192.0.2.{number}")
    listed = [each.source for first in (0, 4, 8) for each, _ in penalties.bans(0, 4, first=first)]
    assert listed == [f"192.0.2.{number}" for number in range(10)]
    assert len(penalties.lift(None, 7)) == 7
    assert len(penalties.lift(None, 7)) == 3


def test_an_invalid_address_lifts_no_ban() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Penalties(rules()).lift(["nonsense"], 10)
