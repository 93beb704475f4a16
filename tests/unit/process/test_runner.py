"""A serving process runs its event loop to completion despite hanging threads."""

from __future__ import annotations

import resource
import subprocess
import sys

from tests.support.gateway import REPOSITORY, TIMEOUT

PROGRAM = """
import asyncio, resource, threading
import uvloop
from sftp_gateway.process.runner import raise_descriptor_limit, run

async def main():
    {body}

raise_descriptor_limit()
run(main)
"""


def run_main(*body: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The completed process of a program with this `main`."""
    return subprocess.run(
        [*options, sys.executable, "-c", PROGRAM.format(body="\n    ".join(body))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def test_a_hanging_thread_does_not_keep_the_process_alive() -> None:
    process = run_main(
        "asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)",
        "print('stopped')",
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "stopped\n", "")


def test_an_error_in_main_is_raised() -> None:
    process = run_main("raise RuntimeError('broken')")
    assert process.returncode == 1
    assert "RuntimeError: broken" in process.stderr


def test_the_event_loop_is_uvloop() -> None:
    assert run_main("print(isinstance(asyncio.get_running_loop(), uvloop.Loop))").stdout == "True\n"


def test_the_limit_of_open_files_is_raised_to_its_maximum() -> None:
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1000)
    process = run_main(
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))",
        options=("prlimit", f"--nofile=200:{hard}"),
    )
    assert process.stdout == f"{hard} {hard}\n"


def test_many_new_objects_cause_no_full_garbage_collection() -> None:
    process = run_main(
        "import gc",
        "gc.collect()",
        "full = gc.get_stats()[2]['collections']",
        "kept = [[] for _ in range(200_000)]",
        "print(gc.get_stats()[2]['collections'] - full)",
    )
    assert process.stdout == "0\n"
