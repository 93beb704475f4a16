"""The benchmark runs and writes its results; what they are is nobody's business here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gateway import REPOSITORY, environment

pytestmark = pytest.mark.integration


def test_a_quick_run_writes_every_servers_numbers_and_their_ratio(tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "--quick", "--only", "mount",
            "--folder", str(tmp_path), "--output", str(tmp_path / "results/quick"),
        ],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    results = json.loads((tmp_path / "results/quick.json").read_text())
    assert results["quick"] is True
    assert results["baseline"] == "openssh"
    assert set(results["peers"]) == {"sftp-gateway", "openssh"}
    assert len(results["load_averages"]) == results["rounds"] + 1
    [mount] = results["measurements"]
    for peer in ("sftp-gateway", "openssh"):
        numbers = mount["peers"][peer]
        assert len(numbers["rounds"]) == results["rounds"]
        assert 0 < numbers["min"] <= numbers["median"] <= numbers["max"] < math.inf
    assert mount["peers"]["sftp-gateway"]["ratio"]["median"] > 0
    assert (tmp_path / "results/quick.md").read_text().strip() == ran.stdout.strip()
    assert [each.name for each in tmp_path.iterdir()] == ["results"], "something was left behind"
