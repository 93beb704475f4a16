"""The benchmarks run and write results; their values are not checked."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gateway import REPOSITORY, environment

pytestmark = pytest.mark.integration

MAIN = {"sftp-gateway", "openssh", "openssh-gcm"}
OTHERS = {"asyncssh", "rclone", "proftpd"}

#: Workloads of every server.
FOR_ALL = {
    "sequential", "get", "small", "small_8", "walk", "random", "mounts_8", "memory", "logins",
}  # fmt: skip

#: Metrics that not every main peer has numbers of: only the gateway tells when it is ready, and a
#: quick run has few clients.
NOT_FOR_ALL_MAIN = {
    "start_ready", "growth_16", "growth_16_cpu", "growth_64", "growth_64_cpu", "far_tuned",
}  # fmt: skip

#: Those that need a disk below the data.
FROM_DISK = {"cold", "cold_random"}


def on_tmpfs(path: Path) -> bool:
    kind = subprocess.run(
        ["stat", "--file-system", "--format=%T", path], stdout=subprocess.PIPE, check=True
    ).stdout
    return kind.strip() == b"tmpfs"


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=380,
    )


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("peers", "workloads"),
    [(["sftp-gateway", "openssh"], []), (sorted(MAIN | OTHERS), ["sequential", "small", "logins"])],
    ids=["every workload", "every server"],
)
def test_a_quick_run_measures(tmp_path: Path, peers: list[str], workloads: list[str]) -> None:
    only = ["--only", *workloads] if workloads else []
    stem = tmp_path / "results/quick"
    ran = python(
        "benchmarks", "--quick", "--peers", *peers, *only, "--folder", tmp_path, "--output", stem
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads(stem.with_suffix(".json").read_text())
    assert results["quick"] is True
    assert results["baseline"] == "openssh"
    assert results["failures"] == []
    assert results["left_out"] == {}
    assert set(results["peers"]) == set(peers)
    assert len(results["load_averages"]) == results["rounds"] + 1
    if not workloads:
        assert results["link"]["round_trip"] >= 50
    without = NOT_FOR_ALL_MAIN | (FROM_DISK if on_tmpfs(tmp_path) else set())
    for measurement in results["measurements"]:
        assert set(measurement["peers"]) == set(peers)
        for peer, numbers in measurement["peers"].items():
            assert len(numbers["rounds"]) == results["rounds"]
            if measurement["name"] in without:
                continue
            least, most = numbers["min"], numbers["max"]
            assert least <= numbers["median"] <= most < math.inf, (measurement["name"], peer)
            if measurement["higher_is_better"]:
                assert least > 0, (measurement["name"], peer)
    measured = {measurement["workload"] for measurement in results["measurements"]}
    assert measured >= (set(workloads) or FOR_ALL)
    assert stem.with_suffix(".md").read_text().strip() == ran.stdout.strip()
    assert "sftp-gateway" in stem.with_suffix(".svg").read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["results"], "leftover files"


def test_table_and_chart_can_be_redrawn_from_results(tmp_path: Path) -> None:
    stem = tmp_path / "results/quick"
    only = ("--only", "mount", "--peers", "sftp-gateway", "openssh")
    ran = python("benchmarks", "--quick", *only, "--folder", tmp_path, "--output", stem)
    assert ran.returncode == 0, ran.stderr
    drawn = {kind: stem.with_suffix(kind).read_text() for kind in (".md", ".svg")}
    for kind in drawn:
        stem.with_suffix(kind).unlink()
    ran = python("benchmarks", "--render", stem.with_suffix(".json"))
    assert ran.returncode == 0, ran.stderr
    assert drawn == {kind: stem.with_suffix(kind).read_text() for kind in drawn}


def test_the_profile_draws_a_flame_graph_and_reports_the_bottleneck(tmp_path: Path) -> None:
    results = tmp_path / "results"
    ran = python(
        "benchmarks.profile", "--quick", "--rounds", "1", "--folder", tmp_path, "--output", results
    )
    assert ran.returncode == 0, ran.stderr
    assert "the limit" in (results / "limit.md").read_text()
    assert 0 < (results / "flame.svg").stat().st_size < 1_000_000
    assert [each.name for each in tmp_path.iterdir()] == ["results"], "leftover files"


def test_the_worker_kits_options_are_compared_with_the_defaults(tmp_path: Path) -> None:
    stem = tmp_path / "kit"
    ran = python("benchmarks.worker_kit", "--quick", "--trips", "5", "--choices", "--output", stem)
    assert ran.returncode == 0, ran.stderr
    cells = json.loads(stem.with_suffix(".json").read_text())["links"]["5"]
    assert set(cells) == {"plain", "kit"}
    assert all(set(rates) == {"big", "files", "again"} for rates in cells.values())
    assert all(rate > 0 for rates in cells.values() for each in rates.values() for rate in each)
    assert "| 5 ms | one big file |" in stem.with_suffix(".md").read_text()


def test_growth_measures_each_load_with_each_server(tmp_path: Path) -> None:
    result = tmp_path / "growth.json"
    few = ("--workers", "1", "--sessions", "2", "--rounds", "1", "--seconds", "0.1", "--mib", "1")
    ran = python("benchmarks.growth", *few, "--folder", tmp_path, "--json", result)
    assert ran.returncode == 0, ran.stderr
    measured = json.loads(result.read_text())["measured"]
    assert {(each["load"], each["peer"]) for each in measured} == set(
        itertools.product(("lstat", "files", "read"), ("sftp-gateway", "openssh-gcm"))
    )
    assert all(each["rate"] > 0 for each in measured)
    assert ran.stdout.count("| 1 | 2 |") == 3
    assert {each.name for each in tmp_path.iterdir()} == {"growth.json", "growth.md"}


def test_requests_are_measured_beside_a_revision_and_sshd(tmp_path: Path) -> None:
    table = tmp_path / "requests.md"
    few = ("--starts", "1", "--rounds", "1", "--folder", tmp_path, "--output", table)
    ran = python("benchmarks", "requests", "--against", "HEAD", *few)
    assert ran.returncode == 0, ran.stderr
    rows = [line.split(" | ") for line in table.read_text().splitlines() if line.startswith("| ")]
    assert {row[1] for row in rows[2:]} == {"sftp-gateway", "before", "openssh", "openssh-gcm"}
    assert len(rows) == 2 + 4 * 4
    counted = [row[6] for row in rows[2:]]  # pages
    if shutil.which("strace"):
        counted += [row[5] for row in rows[2:]]
    assert all(float(number.replace(",", "")) > 1 for number in counted)
    assert [each.name for each in tmp_path.iterdir()] == ["requests.md"], "leftover files"
