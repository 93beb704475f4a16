"""What may hang is looked at from a child."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sftp_gateway.worker_doctor.children import in_child
from tests.support.gateway import environment


def test_what_a_child_finds_or_fails_with_comes_back() -> None:
    assert in_child(lambda: [1, "a" * 100_000], 10) == [1, "a" * 100_000]

    def fail() -> None:
        raise OSError(errno.ENOTCONN, "x")

    with pytest.raises(OSError, match="not connected") as raised:
        in_child(fail, 10)
    assert raised.value.errno == errno.ENOTCONN
    with pytest.raises(OSError, match="Input/output"):
        in_child(lambda: os._exit(1), 10)


def test_a_child_that_the_kernel_keeps_is_left_behind_and_holds_no_output(tmp_path: Path) -> None:
    end = tmp_path / "end"
    script = (
        "import os, time; from sftp_gateway.worker_doctor.children import in_child\n"
        "def touch():\n"
        f"    while not os.path.exists({str(end)!r}): time.sleep(0.05)\n"
        "os.kill = lambda *_: None\n"
        "try: in_child(touch, 0.1)\n"
        "except TimeoutError: print('left')\n"
    )
    try:
        ran = subprocess.run(
            [sys.executable, "-c", script], env=environment(), capture_output=True, timeout=30
        )
    finally:
        end.touch()
    assert ran.stdout == b"left\n"
