"""The test suite ends even in the background, and measures without real-time priority."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.floods import arena
from tests.support.gateway import REPOSITORY, environment

#: Starts a background job like a shell without job control.
IN_BACKGROUND = ("bash", "-c", "trap '' INT; exec \"$@\"", "bash")


@pytest.fixture
def run(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """pytest in the background, with one test that is interrupted and one that hangs."""
    (tmp_path / "test_it.py").write_text(
        """
import signal, subprocess, sys
import pytest

def test_interrupt():
    program = "import sys, time; print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == -signal.SIGINT

@pytest.mark.timeout(1)
def test_hang():
    with subprocess.Popen(["sleep", "20"]) as child:
        child.wait()
"""
    )
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", "."]
    return subprocess.run(
        [*IN_BACKGROUND, *command, "-p", "tests.conftest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_background_runs_interrupt_children_and_end_hanging_tests(
    run: subprocess.CompletedProcess[str],
) -> None:
    assert "1 failed, 1 passed" in run.stdout, run.stdout
    assert "FAILED test_it.py::test_hang - Failed: Timeout" in run.stdout


def test_a_victim_without_real_time_priority_gets_a_nice_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "setpriority", lambda *arguments: asked.append(arguments))
    arena._make_realtime(123)
    assert asked == [(os.PRIO_PROCESS, 123, -19)]
