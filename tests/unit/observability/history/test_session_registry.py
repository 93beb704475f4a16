"""Rates and bytes per minute, computed from the snapshots of workers without double counting."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sftp_gateway.observability.history.session_registry import STALE, SessionRegistry
from tests.support.history import NOON, line


class Harness:
    """A registry with a manual clock, and a way to report sessions to it."""

    def __init__(self) -> None:
        self.time = 100.0
        self.registry = SessionRegistry(clock=lambda: self.time, now=lambda: NOON + self.time)

    def report(self, *sessions: dict[str, Any], worker: int = 7, **fields: Any) -> None:
        snapshot = {"worker": worker, "more": False, "started": NOON + 100, "total": len(sessions),
                "sent": {}, "sessions": sessions, **fields}  # fmt: skip
        self.registry.update(json.dumps({"live": snapshot}).encode())

    @property
    def sent(self) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for (_, kind, name), count in self.registry.take_throughput().items():
            found[kind, name] = found.get((kind, name), 0) + count
        return found


def session(name: str = "a", *, sent: int = 0, **fields: Any) -> dict[str, Any]:
    return {"session": name, "user": "ana", "credential": "SHA256:key", "key_label": "worker7",
            "client_ip": "192.0.2.17",
            "client_version": "SSH-2.0-x", "started": NOON + 100, "bytes": sent,
            "requests": 1, "open": 0, "files": [], **fields}  # fmt: skip


@pytest.fixture
def harness() -> Harness:
    return Harness()


def test_a_rate_is_the_difference_of_two_snapshots(harness: Harness) -> None:
    harness.report(session(sent=1000), sent={"models": 1000})
    harness.time += 2
    harness.report(session(sent=9000), sent={"models": 9000})
    live = harness.registry.live([7])
    assert live.sessions[0].rate == 4000
    assert live.rate == 4000
    assert harness.sent == {("user", "ana"): 9000, ("share", "models"): 9000}


def test_a_session_end_adds_its_last_bytes(harness: Harness) -> None:
    harness.report(session(sent=1000))
    harness.registry.ended(json.loads(line("session_end", at=NOON + 110, user="ana", session="a",
                                     bytes=1500, duration=9.0)))  # fmt: skip
    assert harness.sent == {("user", "ana"): 1500}


def test_a_session_end_adds_a_session_missing_from_all_snapshots(harness: Harness) -> None:
    ended = line("session_end", at=NOON + 110, user="ana", session="b", bytes=70, duration=1.0)
    harness.registry.ended(json.loads(ended))
    assert harness.sent == {("user", "ana"): 70}


def test_bytes_sent_before_the_observer_started_are_not_counted(harness: Harness) -> None:
    harness.report(session(sent=5000, started=NOON), sent={"models": 5000}, started=NOON)
    assert harness.sent == {}
    harness.time += 2
    harness.report(session(sent=5100, started=NOON), sent={"models": 5100}, started=NOON)
    assert harness.sent == {("user", "ana"): 100, ("share", "models"): 100}
    ended = line("session_end", at=NOON + 110, user="ana", session="c", bytes=70, duration=100.0)
    harness.registry.ended(json.loads(ended))
    assert harness.sent == {}


def test_an_open_file_shows_its_progress(harness: Harness) -> None:
    harness.report(session(open=1, files=[("models", "/home/ana/models/a", 100, 10)]))
    harness.time += 2
    harness.report(session(open=1, files=[("models", "/home/ana/models/a", 100, 60)]))
    assert harness.registry.live([7]).sessions[0].files[0].moving
    harness.time += 2
    harness.report(session(open=1, files=[("models", "/home/ana/models/a", 100, 60)]))
    assert not harness.registry.live([7]).sessions[0].files[0].moving


def test_a_snapshot_may_arrive_in_parts(harness: Harness) -> None:
    harness.report(session("a"), more=True, total=2)
    assert harness.registry.live([7]).sessions == ()
    harness.report(session("b"), total=2)
    assert {each.session for each in harness.registry.live([7]).sessions} == {"a", "b"}
    harness.time += 2
    harness.report(session("b"), total=1)
    assert {each.session for each in harness.registry.live([7]).sessions} == {"b"}


def test_a_dead_or_silent_worker_is_not_shown(harness: Harness) -> None:
    harness.report(session("a"), worker=7)
    harness.report(session("b"), worker=8)
    assert harness.registry.live([8]).total == 1
    assert harness.registry.live([7, 8]).by_worker == {7: 1, 8: 1}
    harness.time += STALE
    assert harness.registry.live([7, 8]).total == 0


def test_sessions_are_sorted_by_rate(harness: Harness) -> None:
    harness.report(session("idle"), session("busy"))
    harness.time += 1
    harness.report(session("idle"), session("busy", sent=10))
    assert [each.session for each in harness.registry.live([7]).sessions] == ["busy", "idle"]


def test_throughput_given_back_is_taken_again(harness: Harness) -> None:
    harness.report(session(sent=10))
    harness.registry.give_back(harness.registry.take_throughput())
    assert harness.sent == {("user", "ana"): 10}


@pytest.mark.parametrize(
    "sent",
    [b"", b"{}", b'{"live":', b'{"live":[]}', b'{"live":{"worker":"x"}}', b'{"live":{"worker":7}}',
     b'{"live":' + b"[" * 100_000, b'{"live":{"worker":1,"sessions":[1],"more":false}}'],
)  # fmt: skip
def test_an_invalid_snapshot_is_ignored(harness: Harness, sent: bytes) -> None:
    harness.report(session())
    harness.registry.update(sent)
    assert harness.registry.live([7]).total == 1


def test_impossible_numbers_are_clamped(harness: Harness) -> None:
    for number in range(300):
        harness.report(session(f"s{number}", sent=-5), worker=number, sent={"models": -7})
    assert harness.sent == {}
    assert len(harness.registry.live(range(300)).by_worker) <= 256
