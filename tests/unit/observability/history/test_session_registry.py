"""Rates and bytes by the minute come of what workers tell, and of nothing twice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sftp_gateway.observability.history.session_registry import STALE, SessionRegistry
from tests.support.history import NOON, line


class Told:
    """A registry whose clocks stand still until they are moved."""

    def __init__(self) -> None:
        self.time = 100.0
        self.registry = SessionRegistry(clock=lambda: self.time, now=lambda: NOON + self.time)

    def tell(self, *sessions: dict[str, Any], worker: int = 7, **fields: Any) -> None:
        told = {"worker": worker, "more": False, "started": NOON + 100, "total": len(sessions),
                "sent": {}, "sessions": sessions, **fields}  # fmt: skip
        self.registry.update(json.dumps({"live": told}).encode())

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
def told() -> Told:
    return Told()


def test_a_rate_is_the_difference_of_two_pictures(told: Told) -> None:
    told.tell(session(sent=1000), sent={"models": 1000})
    told.time += 2
    told.tell(session(sent=9000), sent={"models": 9000})
    live = told.registry.live([7])
    assert live.sessions[0].rate == 4000
    assert live.rate == 4000
    assert told.sent == {("user", "ana"): 9000, ("share", "models"): 9000}


def test_the_last_bytes_of_a_session_come_with_its_end(told: Told) -> None:
    told.tell(session(sent=1000))
    told.registry.ended(json.loads(line("session_end", at=NOON + 110, user="ana", session="a",
                                     bytes=1500, duration=9.0)))  # fmt: skip
    assert told.sent == {("user", "ana"): 1500}


def test_a_session_that_no_picture_showed_counts_with_its_end(told: Told) -> None:
    ended = line("session_end", at=NOON + 110, user="ana", session="b", bytes=70, duration=1.0)
    told.registry.ended(json.loads(ended))
    assert told.sent == {("user", "ana"): 70}


def test_what_was_sent_before_the_observer_was_there_is_not_counted(told: Told) -> None:
    told.tell(session(sent=5000, started=NOON), sent={"models": 5000}, started=NOON)
    assert told.sent == {}
    told.time += 2
    told.tell(session(sent=5100, started=NOON), sent={"models": 5100}, started=NOON)
    assert told.sent == {("user", "ana"): 100, ("share", "models"): 100}
    ended = line("session_end", at=NOON + 110, user="ana", session="c", bytes=70, duration=100.0)
    told.registry.ended(json.loads(ended))
    assert told.sent == {}


def test_a_file_moves_while_it_is_read(told: Told) -> None:
    told.tell(session(open=1, files=[("models", "/home/ana/models/a", 100, 10)]))
    told.time += 2
    told.tell(session(open=1, files=[("models", "/home/ana/models/a", 100, 60)]))
    assert told.registry.live([7]).sessions[0].files[0].moving
    told.time += 2
    told.tell(session(open=1, files=[("models", "/home/ana/models/a", 100, 60)]))
    assert not told.registry.live([7]).sessions[0].files[0].moving


def test_a_picture_may_come_in_pieces(told: Told) -> None:
    told.tell(session("a"), more=True, total=2)
    assert told.registry.live([7]).sessions == ()
    told.tell(session("b"), total=2)
    assert {each.session for each in told.registry.live([7]).sessions} == {"a", "b"}
    told.time += 2
    told.tell(session("b"), total=1)
    assert {each.session for each in told.registry.live([7]).sessions} == {"b"}


def test_a_worker_that_is_gone_or_silent_is_not_shown(told: Told) -> None:
    told.tell(session("a"), worker=7)
    told.tell(session("b"), worker=8)
    assert told.registry.live([8]).total == 1
    assert told.registry.live([7, 8]).by_worker == {7: 1, 8: 1}
    told.time += STALE
    assert told.registry.live([7, 8]).total == 0


def test_the_busiest_come_first(told: Told) -> None:
    told.tell(session("idle"), session("busy"))
    told.time += 1
    told.tell(session("idle"), session("busy", sent=10))
    assert [each.session for each in told.registry.live([7]).sessions] == ["busy", "idle"]


def test_what_could_not_be_written_is_taken_again(told: Told) -> None:
    told.tell(session(sent=10))
    told.registry.give_back(told.registry.take_throughput())
    assert told.sent == {("user", "ana"): 10}


@pytest.mark.parametrize(
    "sent",
    [b"", b"{}", b'{"live":', b'{"live":[]}', b'{"live":{"worker":"x"}}', b'{"live":{"worker":7}}',
     b'{"live":' + b"[" * 100_000, b'{"live":{"worker":1,"sessions":[1],"more":false}}'],
)  # fmt: skip
def test_what_is_no_picture_changes_nothing(told: Told, sent: bytes) -> None:
    told.tell(session())
    told.registry.update(sent)
    assert told.registry.live([7]).total == 1


def test_numbers_that_cannot_be_are_bounded(told: Told) -> None:
    for number in range(300):
        told.tell(session(f"s{number}", sent=-5), worker=number, sent={"models": -7})
    assert told.sent == {}
    assert len(told.registry.live(range(300)).by_worker) <= 256
