"""Events that clients cause at no cost are rate-limited, and the excess is counted."""

from __future__ import annotations

import math
from dataclasses import replace

from sftp_gateway.observability.access_log.events import (
    CommandAnswered,
    CommandRefused,
    Denied,
    EventsSuppressed,
    FileOpened,
    LoginRefused,
    ServerStopped,
    Session,
    SessionEnded,
)
from sftp_gateway.observability.access_log.rate_limit import (
    INTERVAL,
    OWNER_BURST,
    OWNER_RATE,
    RATE_LIMITED,
    SESSION_BURST,
    SESSION_RATE,
    EventLimiter,
    is_minor,
    owner_of,
)

SESSION = Session(session="0" * 16, client_ip="192.0.2.7", client_port=50122, user="ana")


def denied(session: Session = SESSION, at: float = 0.0) -> Denied:
    return Denied(time=at, session=session, operation="rename", reason="read_only")


def admitted(limiter: EventLimiter, count: int, session: Session = SESSION, now: float = 0) -> int:
    """How many of `count` events are admitted."""
    return sum(limiter.admits(denied(session), session.user, now) for _ in range(count))


def test_a_session_has_a_burst_and_then_a_rate() -> None:
    limiter = EventLimiter()
    assert admitted(limiter, 5000) == SESSION_BURST
    assert admitted(limiter, 5000, now=2) == 2 * SESSION_RATE
    assert limiter.suppressed == 10_000 - SESSION_BURST - 2 * SESSION_RATE


def test_a_user_has_a_rate_over_all_sessions() -> None:
    limiter = EventLimiter()
    sessions = [replace(SESSION, session=f"{number:016}") for number in range(100)]
    assert sum(admitted(limiter, SESSION_BURST, each) for each in sessions) == OWNER_BURST
    assert sum(admitted(limiter, 100, each, now=1) for each in sessions) == OWNER_RATE


def test_a_flooding_session_leaves_room_for_its_users_others() -> None:
    limiter = EventLimiter()
    admitted(limiter, 100_000)
    assert admitted(limiter, 50, replace(SESSION, session="1" * 16)) == 50


def test_another_user_is_not_limited() -> None:
    limiter = EventLimiter()
    for number in range(100):
        admitted(limiter, 1000, replace(SESSION, session=f"{number:016}"))
    other = replace(SESSION, session="f" * 16, user="ben")
    assert admitted(limiter, SESSION_BURST, other) == SESSION_BURST


def test_suppressed_events_are_summarized_by_kind() -> None:
    limiter = EventLimiter()
    admitted(limiter, SESSION_BURST)
    for time, event in (
        (3.0, denied(at=103.0)),
        (4.0, CommandRefused(time=104.0, session=SESSION, kind="forwarding")),
        (5.0, denied(at=105.0)),
        (6.0, CommandAnswered(time=106.0, session=SESSION, command="echo")),
    ):
        limiter.admits(event, "ana", 0.0)
        assert limiter.summaries(time) == []
    assert limiter.pending
    [summary] = limiter.summaries(INTERVAL)
    assert (summary.count, summary.since, summary.until) == (4, 103.0, 106.0)
    assert (summary.denied, summary.command_refused, summary.command_answered) == (2, 1, 1)
    assert summary.login_refused is None
    assert summary.session == SESSION
    assert not limiter.pending
    assert limiter.summaries(math.inf) == []


def test_each_interval_has_its_own_summary() -> None:
    limiter = EventLimiter()
    admitted(limiter, SESSION_BURST + 7)
    assert [each.count for each in limiter.summaries(INTERVAL)] == [7]
    admitted(limiter, SESSION_BURST + 2, now=INTERVAL)
    assert limiter.summaries(INTERVAL + 1) == []
    assert [each.count for each in limiter.summaries(2 * INTERVAL)] == [2]


def test_a_session_end_summarizes_the_rest() -> None:
    limiter = EventLimiter()
    admitted(limiter, SESSION_BURST + 3)
    [summary] = limiter.ended(SESSION)
    assert summary.count == 3
    assert limiter.ended(SESSION) == []
    assert not limiter.pending


def test_ended_sessions_use_no_memory_and_addresses_are_bounded() -> None:
    limiter = EventLimiter()
    for number in range(10_000):
        session = Session(session=f"{number:016}", client_ip=f"2001:db8::{number:x}", client_port=1)
        event = LoginRefused(session=session, user_tried="x", method="none", reason="unknown_user")
        assert limiter.admits(event, owner_of(event), 0.0)
        limiter.ended(session)
    assert len(limiter._sessions) == 0
    assert len(limiter._owners) <= 4096


def test_file_events_are_neither_limited_nor_minor() -> None:
    opened = FileOpened(session=SESSION, share="models", path=b"/", size=0)
    assert type(opened) not in RATE_LIMITED
    assert not is_minor(opened)
    assert is_minor(denied())


def test_the_end_of_a_connection_without_a_login_is_minor() -> None:
    end = SessionEnded(
        session=SESSION, duration=0, bytes=0, files=0, folders=0, requests=0, denied=0, reason="x"
    )
    assert not is_minor(end)
    assert is_minor(replace(end, session=replace(SESSION, user=None)))


def test_an_event_belongs_to_its_user_or_to_its_address() -> None:
    assert owner_of(denied()) == "ana"
    assert owner_of(denied(replace(SESSION, user=None))) == "[192.0.2.7]"
    assert owner_of(ServerStopped()) is None


def test_every_limited_event_has_its_count_in_the_summary() -> None:
    fields = set(EventsSuppressed.__dataclass_fields__)
    assert {kind.name for kind in RATE_LIMITED} <= fields
