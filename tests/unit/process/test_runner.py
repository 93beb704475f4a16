"""A serving process runs its event loop to the end of its work, and ends whatever hangs."""

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


def ran(*body: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """What a program came to whose `main` is this."""
    return subprocess.run(
        [*options, sys.executable, "-c", PROGRAM.format(body="\n    ".join(body))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    process = ran(
        "asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)",
        "print('stopped')",
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "stopped\n", "")


def test_an_error_of_the_program_is_raised() -> None:
    process = ran("raise RuntimeError('broken')")
    assert process.returncode == 1
    assert "RuntimeError: broken" in process.stderr


def test_the_event_loop_is_uvloops() -> None:
    assert ran("print(isinstance(asyncio.get_running_loop(), uvloop.Loop))").stdout == "True\n"


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1000)
    process = ran(
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))",
        options=("prlimit", f"--nofile=200:{hard}"),
    )
    assert process.stdout == f"{hard} {hard}\n"


def test_thousands_of_new_objects_bring_about_no_full_garbage_collection() -> None:
    process = ran(
        "import gc",
        "gc.collect()",
        "full = gc.get_stats()[2]['collections']",
        "kept = [[] for _ in range(200_000)]",
        "print(gc.get_stats()[2]['collections'] - full)",
    )
    assert process.stdout == "0\n"
