"""What all sessions hold back is counted, and counted again before anybody suffers from it."""

from __future__ import annotations

import pytest

from sftp_gateway.server.limits import budget as module
from sftp_gateway.server.limits.budget import Budget


class Session:
    def __init__(self, held: int = 0) -> None:
        self.held = held


def test_the_budget_is_spent_by_all_together() -> None:
    budget = Budget(100)
    first, second = Session(60), Session(39)
    budget.count(first)
    budget.count(second)
    assert not budget.spent
    second.held = 40
    budget.count(second)
    assert budget.spent


def test_a_session_counts_once_however_often_it_says_so() -> None:
    budget = Budget(100)
    session = Session(60)
    for _ in range(3):
        budget.count(session)
    assert not budget.spent


def test_a_session_that_is_gone_gives_back_what_it_held() -> None:
    budget = Budget(100)
    session = Session(200)
    budget.count(session)
    assert budget.spent
    budget.forget(session)
    budget.forget(session)
    assert not budget.spent


def test_what_was_taken_without_a_word_is_noticed() -> None:
    budget = Budget(100)
    sessions = [Session(10) for _ in range(10)]
    for session in sessions:
        budget.count(session)
        session.held = 0  # the network has taken it
    assert not budget.spent


def test_everything_is_counted_again_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    budget = Budget(100)
    session = Session(100)
    budget.count(session)
    assert budget.spent
    session.held = 0
    assert budget.spent  # it was looked at just now
    now += 0.2
    assert not budget.spent
