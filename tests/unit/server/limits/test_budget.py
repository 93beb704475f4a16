"""What all sessions hold back is counted, and counted again before anybody suffers from it."""

from __future__ import annotations

import pytest

from sftp_gateway.server.limits import budget as module
from sftp_gateway.server.limits.budget import BufferBudget


class Session:
    def __init__(self, buffered: int = 0) -> None:
        self.buffered = buffered


def test_the_budget_is_spent_by_all_together() -> None:
    budget = BufferBudget(100)
    first, second = Session(60), Session(39)
    budget.update(first)
    budget.update(second)
    assert not budget.exhausted
    second.buffered = 40
    budget.update(second)
    assert budget.exhausted


def test_a_session_counts_once_however_often_it_says_so() -> None:
    budget = BufferBudget(100)
    session = Session(60)
    for _ in range(3):
        budget.update(session)
    assert not budget.exhausted


def test_a_session_that_is_gone_gives_back_what_it_held() -> None:
    budget = BufferBudget(100)
    session = Session(200)
    budget.update(session)
    assert budget.exhausted
    budget.remove(session)
    budget.remove(session)
    assert not budget.exhausted


def test_what_was_taken_without_a_word_is_noticed() -> None:
    budget = BufferBudget(100)
    sessions = [Session(10) for _ in range(10)]
    for session in sessions:
        budget.update(session)
        session.buffered = 0  # the network has taken it
    assert not budget.exhausted


def test_everything_is_counted_again_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    budget = BufferBudget(100)
    session = Session(100)
    budget.update(session)
    assert budget.exhausted
    session.buffered = 0
    assert budget.exhausted  # it was looked at just now
    now += 0.2
    assert not budget.exhausted
