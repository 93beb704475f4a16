"""Metrics of the processes themselves."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Callable

import pytest

from sftp_gateway.observability.gateway_state import GatewayState, WorkerState
from sftp_gateway.observability.metrics.exposition import Exposition
from tests.support.measured import gateway_state, metric_in

Page = Callable[..., str]


@pytest.fixture
def show() -> Page:
    """Renders the page for a gateway state with one exposition per test."""
    shown: list[GatewayState | None] = []
    exposition = Exposition(
        lambda: shown[-1], memories=tuple, version="1.2.3", build={"asyncssh": "2.24.1"}
    )

    def page(state: GatewayState | None) -> str:
        shown.append(state)
        return exposition.render()[1].decode()

    return page


def worker(pid: int, *, ready: bool = True) -> WorkerState:
    return WorkerState(number=0, pid=pid, ready=ready, seen=0.0, problems={})


def test_build_info_has_the_versions(show: Page) -> None:
    labels = {"version": "1.2.3", "python": platform.python_version(), "asyncssh": "2.24.1"}
    assert metric_in(show(None), "sftp_gateway_build_info", **labels) == 1


def test_workers_and_refusals_are_exported(show: Page) -> None:
    own = os.getpid()
    page = show(
        gateway_state(
            workers=(worker(own), worker(own), worker(own, ready=False)),
            wanted=3,
            restarts=7,
            refused={"max_connections": 5},
        )
    )
    assert metric_in(page, "sftp_gateway_workers") == 2
    assert metric_in(page, "sftp_gateway_workers_wanted") == 3
    assert metric_in(page, "sftp_gateway_worker_restarts_total") == 7
    refused = "sftp_gateway_connections_refused_total"
    assert metric_in(page, refused, reason="max_connections") == 5
    assert f'{refused}{{reason="max_startups"}} 0.0' in page


def test_process_metrics_are_summed(show: Page) -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        alone, both = show(gateway_state()), show(gateway_state(workers=(worker(pid),)))
        virtual = "process_virtual_memory_bytes"
        assert metric_in(both, virtual) > metric_in(alone, virtual) > 0
        for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "max_fds"):
            assert metric_in(both, f"process_{name}") > 0
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_a_dead_process_is_omitted_and_cpu_time_never_falls(show: Page) -> None:
    own = os.getpid()
    before = metric_in(show(gateway_state(workers=(worker(own),) * 3)), "process_cpu_seconds_total")
    page = show(gateway_state(workers=(worker(2**22 + 1),)))
    assert metric_in(page, "process_cpu_seconds_total") >= before
    assert metric_in(page, "process_start_time_seconds") > 0


def test_without_a_supervisor_message_there_are_no_processes(show: Page) -> None:
    page = show(None)
    assert "process_" not in page
    assert "sftp_gateway_workers" not in page
