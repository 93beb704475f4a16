"""The penalty table stays bounded whatever sources do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sftp_gateway.auth.penalties import Banned, Offence, Penalties, PenaltyRules, Verdict
from sftp_gateway.auth.sources import Networks, SourceBlocks

MAXIMUM = 50.0
EXEMPT = "192.0.2.0"
SOURCES = [EXEMPT, "192.0.2.1", "2001:db8::1", "2001:db8::2", "nowhere"]


def rules(max_sources: int, overflow: str, trust: float) -> PenaltyRules:
    return PenaltyRules(
        costs={kind: 5.0 * number for number, kind in enumerate(Offence)},
        minimum=15.0,
        maximum=MAXIMUM,
        blocks=SourceBlocks(),
        exempt=Networks.parse([EXEMPT]),
        max_sources=max_sources,
        overflow="deny-all" if overflow == "deny-all" else "permissive",
        trust=trust,
        trusted_rate=0.5,
    )


RULES = st.builds(
    rules,
    st.integers(1, 3),
    st.sampled_from(["permissive", "deny-all"]),
    st.sampled_from([0.0, 20.0]),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([*["penalise"] * 6, "login", "logout", "update"]),
        st.sampled_from(SOURCES),
        st.sampled_from(list(Offence)),
        st.sampled_from([0, 0, 1, 7, 30]),
        RULES,
    ),
    max_size=80,
)


@given(RULES, STEPS)
def test_the_penalty_table_stays_bounded(
    first: PenaltyRules, steps: list[tuple[str, str, Offence, int, PenaltyRules]]
) -> None:
    penalties = Penalties(first)
    rules, now = first, 0
    announced: set[str] = set()
    for what, source, kind, later, other in steps:
        now += later
        rules = other if what == "update" else rules
        _step(penalties, what, source, kind=kind, now=now, rules=rules)
        assert len(penalties) <= rules.max_sources
        assert len(penalties._heap) <= 2 * len(penalties) + 64 + len(steps)
        for each in SOURCES:
            score = penalties.score(each, now)
            assert score <= MAXIMUM
            answer = penalties.check(each, now)
            assert score > 0 or answer in (Verdict.ACCEPTED, Verdict.TABLE_FULL)
            assert each != EXEMPT or answer is Verdict.ACCEPTED
        # The reports agree with the table.
        for event in penalties.drain_events():
            if isinstance(event, Banned):
                assert event.source not in announced
                assert rules.minimum <= event.score <= event.seconds <= MAXIMUM
                announced.add(event.source)
            else:
                announced.remove(event.source)
        assert penalties.banned == len(announced)
    penalties.expire(now + 2 * MAXIMUM)
    assert len(penalties) == penalties.banned == 0
    for each in SOURCES:
        assert penalties.check(each, now + 2 * MAXIMUM) is Verdict.ACCEPTED


def _step(
    penalties: Penalties, what: str, source: str, *, kind: Offence, now: float, rules: PenaltyRules
) -> None:
    match what:
        case "penalise":
            penalties.add_penalty(source, kind, now)
        case "login":
            penalties.logged_in(source, now)
        case "logout":
            penalties.logged_out(source, now)
        case "update":
            penalties.update(rules, now)
