"""The process runs until a signal says stop, and then ends whatever hangs."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.gateway import PATIENCE, REPOSITORY

PROGRAM = """
import asyncio, resource, sys, threading, time, uvloop
from sftp_gateway.process.runner import run

async def main(stop):
    print("ready", flush=True)
    {body}

run(main)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program whose `main` is this; gives it when it runs."""
    started: list[subprocess.Popen[str]] = []

    def run(*body: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*options, sys.executable, "-c", PROGRAM.format(body="\n    ".join(body))],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """What it says next."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_says_stop_and_the_process_ends_well(start: Start, number: signal.Signals) -> None:
    process = start("await stop.wait()", "print('stopped by', stop.name)")
    process.send_signal(number)
    out, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, errors) == (0, f"stopped by {number.name}\n", "")


def test_a_second_signal_ends_the_process_at_once(start: Start) -> None:
    process = start(
        "await stop.wait()",
        "print('stopping', flush=True)",
        "await asyncio.Event().wait()",
    )
    process.terminate()
    assert said(process) == "stopping"
    process.terminate()
    assert process.wait(PATIENCE) == 1


def test_a_thread_that_hangs_does_not_keep_the_process(start: Start) -> None:
    process = start(
        "asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)",
        "await stop.wait()",
        "print('stopped')",
    )
    process.terminate()
    assert process.communicate(timeout=PATIENCE) == ("stopped\n", "")
    assert process.returncode == 0


def test_an_error_of_the_program_is_raised(start: Start) -> None:
    process = start("raise RuntimeError('broken')")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "RuntimeError: broken" in errors


def test_the_event_loop_is_uvloops(start: Start) -> None:
    process = start("print(isinstance(asyncio.get_running_loop(), uvloop.Loop))")
    assert said(process) == "True"


def test_as_many_files_may_be_open_as_the_system_allows(start: Start) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    process = start(
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))",
        options=("prlimit", f"--nofile=200:{min(hard, 1000)}"),
    )
    assert said(process) == f"{min(hard, 1000)} {min(hard, 1000)}"
