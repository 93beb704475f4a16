"""The gateway's health, computed from the state of its processes."""

from __future__ import annotations

from typing import Any

import pytest

from sftp_gateway.observability.gateway_state import (
    HEARTBEAT_TIMEOUT,
    GatewayState,
    WorkerState,
    health,
)
from tests.support.measured import gateway_state

NOW = 1000.0


def worker(**changed: Any) -> WorkerState:
    return WorkerState(
        **{"number": 0, "pid": 2, "ready": True, "seen": NOW, "problems": {}, **changed}
    )


def of(*workers: WorkerState, **changed: Any) -> GatewayState:
    return gateway_state(**{"time": NOW, "workers": workers, "shares": ("a", "b"), **changed})


def test_serving_workers_are_alive_and_ready() -> None:
    found = health(of(worker(), worker()), NOW)
    assert (found.alive, found.ready) == (True, True)
    assert found.details == {"a": "ok", "b": "ok"}


def test_a_problem_in_one_worker_makes_the_gateway_unready() -> None:
    found = health(of(worker(), worker(problems={"b": "its disk does not answer"})), NOW)
    assert (found.alive, found.ready) == (True, False)
    assert found.details == {"a": "ok", "b": "its disk does not answer"}


def test_a_stopping_gateway_is_alive_but_not_ready() -> None:
    found = health(of(worker(), stopping=True), NOW)
    assert (found.alive, found.ready) == (True, False)


def test_a_starting_worker_is_not_ready() -> None:
    assert not health(of(worker(ready=False)), NOW).alive
    found = health(of(worker(), worker(ready=False, seen=NOW - 60)), NOW)
    assert (found.alive, found.ready) == (True, True)


def test_a_gateway_without_workers_is_not_alive() -> None:
    found = health(of(), NOW)
    assert (found.alive, found.ready) == (False, False)


def test_a_silent_process_is_unresponsive() -> None:
    late = NOW - HEARTBEAT_TIMEOUT - 0.1
    for silent in (None, of(worker(), time=late), of(worker(), worker(seen=late))):
        with pytest.raises(TimeoutError):
            health(silent, NOW)
