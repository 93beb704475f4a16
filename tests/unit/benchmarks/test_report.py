"""Ratios, targets and charts computed from the results of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from benchmarks.chart import as_svg
from benchmarks.markdown import as_markdown
from benchmarks.report import Failure, Measurement, Rounds, Run, Spread, as_json, from_json
from benchmarks.targets import TARGETS, Outcome, Target, outcomes
from benchmarks.workloads import WORKLOADS, Metric


def rate(name: str, **peers: Rounds) -> Measurement:
    """A metric with the name of its workload; `_` in a peer's name stands for `-`."""
    metric = Metric(name=name, title=f"the {name}", unit="MB/s", higher_is_better=True)
    by_peer = {peer.replace("_", "-"): rounds for peer, rounds in peers.items()}
    return Measurement(workload=name, metric=metric, peers=by_peer)


def make_run(*measurements: Measurement, failures: Sequence[Failure] = ()) -> Run:
    facts = {"setup": "as it comes", "cipher": "none"}
    return Run(
        date="2026-11-23T12:00+00:00",
        minutes=1.5,
        quick=False,
        baseline="openssh",
        sizes={
            "big_bytes": 2**30, "small_files": 9, "small_bytes": 1024, "folders": 1,
            "files_per_folder": 1, "random_reads": 1, "idle_sessions": 1, "logins": 1,
        },
        machine={"cpu": "A & B", "cores": 2, "memory_gib": 1, "kernel": "6", "system": "Debian"},
        versions={"Python": "3.11"},
        load_averages=[[0.0, 0.0, 0.0]] * 4,
        link={"round_trip": 50.2, "rate": 900.0},
        peers=dict.fromkeys(("sftp-gateway", "openssh", "rclone"), facts),
        left_out={"proftpd": "not installed"},
        failures=failures,
        measurements=list(measurements),
    )  # fmt: skip


def test_a_ratio_compares_medians_of_common_rounds() -> None:
    measured = rate("get", sftp_gateway=[4.0, None, 9.0], openssh=[2.0, 1.0, 3.0])
    assert measured.ratio("sftp-gateway", "openssh") == Spread(median=3.25, min=2.0, max=3.0)


@pytest.mark.parametrize("baseline", [[0.0, 1.0], [None, None], []])
def test_a_ratio_requires_a_baseline(baseline: Rounds) -> None:
    measured = rate("get", sftp_gateway=[1.0, 2.0], openssh=baseline)
    assert measured.ratio("sftp-gateway", "openssh") is None


def test_a_failed_round_is_reported_and_others_kept() -> None:
    failures = [Failure("openssh", "walk", 2, "OSError: gone"), Failure("rclone", "get", 1, "no")]
    run = make_run(
        rate("walk", sftp_gateway=[4.0, 4.0, 4.0], openssh=[2.0, None, 2.0]),
        rate("get", sftp_gateway=[1.0, 1.0, 1.0], rclone=[None, None, None]),
        failures=failures,
    )
    text = as_markdown(run)
    assert "| **2** (2-2), 1 failed |" in text
    assert "| the get | MB/s | more | 1 | - | failed |" in text
    assert "- openssh, walk, round 2: OSError: gone" in text
    assert "- proftpd did not take part: not installed" in text


def test_results_round_trip_through_json() -> None:
    run = make_run(
        rate("get", sftp_gateway=[1.0, None, 3.0], openssh=[1.0, 1.0, 1.0]),
        failures=[Failure("sftp-gateway", "get", 2, "RuntimeError")],
    )
    again = from_json(json.loads(json.dumps(as_json(run))))
    assert again == run
    assert as_markdown(again) == as_markdown(run)


@pytest.mark.parametrize(
    ("median", "at_most", "reached"),
    [(2.0, False, True), (1.9, False, False), (2.0, True, True), (2.1, True, False)],
)
def test_a_target_is_compared_with_the_median(median: float, at_most: bool, reached: bool) -> None:
    measured = Spread(median=median, min=0.0, max=9.0)
    assert Outcome(Target("get", 2.0, at_most=at_most), "", measured).reached is reached


def test_only_measured_metrics_have_outcomes() -> None:
    run = make_run(rate("get", sftp_gateway=[2.0], openssh=[1.0]), rate("walk", openssh=[1.0]))
    assert [outcome.target.metric for outcome in outcomes(run)] == ["get"]


def test_every_target_has_a_measured_metric() -> None:
    known = {metric.name for workload in WORKLOADS for metric in workload.metrics}
    assert {target.metric for target in TARGETS} <= known


def test_the_chart_is_well_formed_and_truncates_long_bars() -> None:
    run = make_run(
        rate("get", sftp_gateway=[1.5], openssh=[1.0]),
        rate("logins", sftp_gateway=[80.0], openssh=[10.0]),
    )
    svg = ElementTree.fromstring(as_svg(run))  # noqa: S314
    bars = svg.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 2
    width = float(svg.attrib["viewBox"].split()[2])
    assert all(float(bar.attrib["x"]) + float(bar.attrib["width"]) < width for bar in bars)
    assert "8.00" in "".join(svg.itertext())
