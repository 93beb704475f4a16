"""Turns what was measured into JSON and a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.data import Sizes
from benchmarks.workloads import Metric, Workload

#: By metric and peer: one number for each round.
Measured = dict[str, dict[str, list[float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of the rounds, and the least and greatest of them."""

    median: float
    min: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything about one run; times of day in UTC."""

    date: str
    quick: bool
    sizes: Sizes
    machine: Mapping[str, object]
    versions: Mapping[str, str]
    #: One entry before each round and one after the last: averages over 1, 5 and 15 minutes.
    load_averages: Sequence[Sequence[float]]
    #: By peer: `cipher` and `setup`. Ratios are to the last peer.
    peers: Mapping[str, Mapping[str, str]]
    workloads: Sequence[Workload]
    measured: Measured

    @property
    def baseline(self) -> str:
        """The peer that the others are compared with."""
        return list(self.peers)[-1]

    @property
    def rounds(self) -> int:
        """How often each workload was run against each peer."""
        return len(self.load_averages) - 1


def spread(values: Sequence[float]) -> Spread:
    """Sum up the rounds of one measurement."""
    return Spread(median=median(values), min=min(values), max=max(values))


def ratio(values: Sequence[float], baseline: Sequence[float]) -> Spread | None:
    """`values` by those of the baseline: of the medians, and the spread over pairs of a round.

    None where the baseline has a zero in it.
    """
    if not all(baseline):
        return None
    pairs = [value / base for value, base in zip(values, baseline, strict=True)]
    return Spread(median=median(values) / median(baseline), min=min(pairs), max=max(pairs))


def as_json(run: Run) -> dict[str, Any]:
    """The whole run, with the numbers of every round."""
    return {
        "schema": 1,
        "date": run.date,
        "quick": run.quick,
        "rounds": run.rounds,
        "sizes": asdict(run.sizes),
        "machine": dict(run.machine),
        "versions": dict(run.versions),
        "load_averages": [list(each) for each in run.load_averages],
        "peers": {name: dict(facts) for name, facts in run.peers.items()},
        "baseline": run.baseline,
        "measurements": [
            _measurement(run, workload, metric)
            for workload in run.workloads
            for metric in workload.metrics
        ],
    }


def _measurement(run: Run, workload: Workload, metric: Metric) -> dict[str, Any]:
    by_peer = run.measured[metric.name]
    peers: dict[str, Any] = {}
    for peer, values in by_peer.items():
        peers[peer] = {"rounds": values, **asdict(spread(values))}
        compared = ratio(values, by_peer[run.baseline]) if run.baseline in by_peer else None
        if peer != run.baseline and compared is not None:
            peers[peer]["ratio"] = asdict(compared)
    return {"workload": workload.name, **asdict(metric), "peers": peers}


def as_markdown(run: Run) -> str:
    """The table for readers, under what it was measured on."""
    others = [peer for peer in run.peers if peer != run.baseline]
    header = ["", "unit", *run.peers, *(f"{peer} / {run.baseline}" for peer in others), "better"]
    rows = [_row(run, metric, others) for workload in run.workloads for metric in workload.metrics]
    table = [header, ["---", "---", *["---:"] * (len(header) - 3), "---"], *rows]
    return "\n".join([*_facts(run), "", *(f"| {' | '.join(row)} |" for row in table), ""])


def _facts(run: Run) -> list[str]:
    machine, loads = run.machine, run.load_averages
    sizes = run.sizes
    versions = ", ".join(f"{name} {number}" for name, number in run.versions.items())
    peers = [f"- {name}: {facts['setup']}; {facts['cipher']}" for name, facts in run.peers.items()]
    return [
        f"# Benchmark of {run.date}" + (" (quick: too small to mean anything)" * run.quick),
        "",
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"Linux {machine['kernel']}, {machine['system']}; servers and clients on loopback",
        f"- {versions}",
        *peers,
        f"- {run.rounds} rounds, the servers in turn; medians, in brackets least and greatest "
        "(of ratios: of the rounds' own)",
        f"- big file {sizes.big_bytes // 2**20} MiB; {sizes.small_files} small files of "
        f"{sizes.small_bytes // 1024} KiB; tree of {sizes.entries} entries; {sizes.random_reads} "
        f"random reads; {sizes.idle_sessions} idle sessions; {sizes.logins} logins at once",
        f"- load average (1 min) {loads[0][0]} before, {loads[-1][0]} after",
    ]


def _row(run: Run, metric: Metric, others: Sequence[str]) -> list[str]:
    by_peer = run.measured[metric.name]
    cells = [_cell(spread(by_peer[peer])) if peer in by_peer else "-" for peer in run.peers]
    for peer in others:
        both = peer in by_peer and run.baseline in by_peer
        compared = ratio(by_peer[peer], by_peer[run.baseline]) if both else None
        cells.append(_cell(compared) if compared else "-")
    return [metric.title, metric.unit, *cells, "more" if metric.higher_is_better else "less"]


def _cell(of: Spread) -> str:
    return f"**{_number(of.median)}** ({_number(of.min)}-{_number(of.max)})"


def _number(value: float) -> str:
    """Three digits that count, or all of a greater number."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
