"""The test suite ends even if it was started in the background."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
