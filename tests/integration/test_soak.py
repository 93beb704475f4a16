"""A soak of seconds covers what one of hours does, and detects errors."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.endurance import MIB
from benchmarks.soak.course import Plan, make_data, soak
from tests.support.gateway import REPOSITORY, TIMEOUT, environment

pytestmark = pytest.mark.integration

#: The operations of a soak, each of which must occur.
ACTIONS = {
    "random reads of one file", "small files", "walks", "sftp get", "refused logins",
    "aborted connections", "killed readers", "changes of authorized_keys", "looks at metrics",
}  # fmt: skip


def command(folder: Path, minutes: float) -> list[str | Path]:
    return [
        sys.executable, "-m", "benchmarks.soak", f"--minutes={minutes}",
        "--folder", folder, "--output", folder / "results/soak",
    ]  # fmt: skip


@pytest.mark.timeout(300)
def test_a_short_run_of_mixed_clients_finds_no_error(tmp_path: Path) -> None:
    ran = subprocess.run(
        command(tmp_path, 0.25),
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = json.loads((tmp_path / "results/soak.json").read_text())
    assert results["problems"] == []
    assert set(results["done"]) == ACTIONS
    assert results["restarts"] >= 2
    assert results["bytes_verified"] > 16 * MIB
    assert results["events"]["login_refused"] >= results["done"]["changes of authorized_keys"]
    kinds = {name.partition(" ")[0] for name in results["samples"][0]["processes"]}
    assert kinds == {"supervisor", "observer", "worker"}
    assert max(each["sessions"] for each in results["samples"]) >= 2
    for rest in (results["before"], results["after"]):
        assert (rest["sessions"], rest["handles"]) == (0, 0)
    assert (tmp_path / "results/soak.md").read_text().strip() == ran.stdout.strip()
    assert "worker" in ran.stdout
    ElementTree.parse(tmp_path / "results/soak.svg")  # noqa: S314 - our own
    assert [each.name for each in tmp_path.iterdir()] == ["results"], "leftover files"


@pytest.mark.parametrize("wrong", ["pattern0.bin", "small/pattern7.bin"])
def test_a_wrong_byte_is_detected(tmp_path: Path, wrong: str) -> None:
    data = make_data(tmp_path / "data")
    with open(data.root / wrong, "r+b") as file:
        for offset in range(0, os.fstat(file.fileno()).st_size, 65536):
            file.seek(offset + 4321)
            file.write(b"\xff")
    plan = Plan(seconds=6, restart_every=1)  # which must not excuse it
    found = soak(plan, data=data, folder=tmp_path / "soak")
    assert not found.held
    assert any("they differ" in problem for problem in found.ledger.problems)


def test_a_failing_client_is_detected(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    (data.root / "tree/000/000").unlink()
    found = soak(Plan(seconds=4, restart_every=60), data=data, folder=tmp_path / "soak")
    assert not found.held
    assert "walks: 1019 entries of 1020" in found.ledger.problems


def test_an_interrupted_soak_leaves_nothing_behind(tmp_path: Path) -> None:
    running = subprocess.Popen(
        command(tmp_path, 10),
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: len(mounts(tmp_path)) == 2)
        running.send_signal(signal.SIGTERM)
        assert running.wait(TIMEOUT * 2) == 143
        assert mounts(tmp_path) == []
        assert [*tmp_path.iterdir()] == []
        wait_for(lambda: not in_session(running.pid))
    finally:
        running.kill()
        running.wait()
        for left in in_session(running.pid):  # where the test failed, its mounts would hang
            os.kill(left, signal.SIGKILL)
        for at in mounts(tmp_path):
            subprocess.run(["umount", "-l", at], check=True)


def wait_for(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def mounts(folder: Path) -> list[str]:
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [place for place in places if place.startswith(f"{folder}/")]


def in_session(leader: int) -> list[int]:
    """The leader's descendants."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[3] == str(leader):  # proc(5): state, ppid, pgrp, session
                found.append(int(stat.parent.name))
    return found
