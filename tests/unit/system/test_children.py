"""Forked children: exit status, signals, descriptors and the death of the parent."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.gateway import REPOSITORY, TIMEOUT, wait_for

PROGRAM = """
import os, signal, sys, time
from sftp_gateway.system.children import reap_children, fork

def child():
    {child}

pid = fork(child, keep=())
{parent}
"""

#: Waits for the child and prints its exit status.
AND_WAIT = """
while not (ended := reap_children()):
    time.sleep(0.01)
print(ended == [(pid, ended[0][1])], ended[0][1])
"""


def run(child: str, parent: str = AND_WAIT) -> subprocess.Popen[str]:
    program = PROGRAM.format(child=child, parent=parent)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("child", "code", "message"),
    [
        ("pass", 0, ""),
        ("raise RuntimeError('broken')", 1, "RuntimeError: broken"),
        ("os._exit(7)", 7, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
    ],
)
def test_the_exit_status_of_a_child_is_returned(child: str, code: int, message: str) -> None:
    out, errors = run(child).communicate(timeout=TIMEOUT)
    assert out == f"True {code}\n"
    assert message in errors


def test_a_configuration_error_is_printed_without_a_traceback() -> None:
    child = (
        "from sftp_gateway.errors import ConfigurationError; raise ConfigurationError(['so wrong'])"
    )
    _, errors = run(child).communicate(timeout=TIMEOUT)
    assert "so wrong" in errors
    assert "Traceback" not in errors


def test_a_child_ignores_signals_meant_for_its_parent() -> None:
    child = """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(os.getpid(), number)
    print("lives", flush=True)
    """
    out, _ = run(child).communicate(timeout=TIMEOUT)
    assert out == "lives\nTrue 0\n"


def test_a_child_keeps_only_the_given_descriptors() -> None:
    program = """
import os
from sftp_gateway.system.children import *
opened = [os.open("/dev/zero", os.O_RDONLY) for _ in range(4)]

def child():
    print([each for each in opened if os.path.exists(f"/proc/self/fd/{each}")] == opened[1:3])

fork(child, keep=(opened[2], opened[1], 1))
while not reap_children(): pass
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert ran.stdout == "True\n"


def test_buffered_output_is_printed_once() -> None:
    program = "import sys\nfrom sftp_gateway.system.children import *\nprint('once', end='')\n"
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            program + "fork(lambda: None, keep=())\nwhile not reap_children(): pass",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert ran.stdout == "once"


def test_a_child_is_killed_with_its_parent() -> None:
    process = run("time.sleep(1000)", "print(pid, flush=True)\ntime.sleep(1000)")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate()

    def gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_for(gone, "the child to end")
