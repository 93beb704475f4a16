"""The memory buffered by all sessions is counted, and recounted before any is throttled."""

from __future__ import annotations

import pytest

from sftp_gateway.server.limits import budget as module
from sftp_gateway.server.limits.budget import BufferBudget


class Session:
    def __init__(self, buffered: int = 0) -> None:
        self.buffered = buffered


def test_the_budget_is_shared() -> None:
    budget = BufferBudget(100)
    first, second = Session(60), Session(39)
    budget.update(first)
    budget.update(second)
    assert not budget.exhausted
    second.buffered = 40
    budget.update(second)
    assert budget.exhausted


def test_a_session_is_counted_once() -> None:
    budget = BufferBudget(100)
    session = Session(60)
    for _ in range(3):
        budget.update(session)
    assert not budget.exhausted


def test_a_removed_session_is_not_counted() -> None:
    budget = BufferBudget(100)
    session = Session(200)
    budget.update(session)
    assert budget.exhausted
    budget.remove(session)
    budget.remove(session)
    assert not budget.exhausted


def test_drained_buffers_are_noticed() -> None:
    budget = BufferBudget(100)
    sessions = [Session(10) for _ in range(10)]
    for session in sessions:
        budget.update(session)
        session.buffered = 0  # it was sent
    assert not budget.exhausted


def test_recounts_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    budget = BufferBudget(100)
    session = Session(100)
    budget.update(session)
    assert budget.exhausted
    session.buffered = 0
    assert budget.exhausted  # it was recounted just now
    now += 0.2
    assert not budget.exhausted
