"""A run as Markdown: what it was measured on, the targets, the tables, what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.peers import GATEWAY, PEERS
from benchmarks.report import Measurement, Run, Spread
from benchmarks.targets import Outcome, outcomes

_MAIN = {peer.name for peer in PEERS if peer.main}


def as_markdown(run: Run) -> str:
    """For readers."""
    main = [peer for peer in run.peers if peer in _MAIN]
    others = [peer for peer in run.peers if peer not in _MAIN]
    lines = [*_facts(run), "", *table(_main_results(run, main))]
    if found := [*outcomes(run)]:
        lines += ["", "## Targets", "", *table(_targets(found))]
    if others:
        shown = [peer for peer in main if peer in (GATEWAY, run.baseline)]
        lines += ["", "## Other servers", ""]
        lines += [f"Medians, and in brackets how many times those of {run.baseline} they are.", ""]
        lines += table(_other_results(run, [*shown, *others], others))
    if run.failures or run.left_out:
        lines += ["", "## What failed", "", *_failures(run)]
    return "\n".join([*lines, ""])


def _facts(run: Run) -> Iterator[str]:
    loads, sizes = run.load_averages, run.sizes
    yield f"# Benchmark of {run.date}" + (" (quick: too small to mean anything)" * run.quick)
    yield ""
    yield from measured_on(run.machine, run.versions)
    for name, facts in run.peers.items():
        yield f"- {name}: {facts['setup']}; {facts['cipher']}"
    rounds = "1 round" if run.rounds == 1 else f"{run.rounds} rounds"
    yield (
        f"- {rounds}, the servers in turn; medians, in brackets least and greatest "
        "(of ratios: of the rounds' own)"
    )
    yield f"- {_sizes(sizes)}"
    if run.link is not None:
        yield (
            f"- delaying proxy: {run.link['round_trip']:.1f} ms round trip; "
            f"it carries {run.link['rate']:,.0f} MB/s when it does not delay"
        )
    took = f"; {run.minutes:.0f} minutes in all" if run.minutes else ""
    yield f"- load average (1 min) {loads[0][0]} before, {loads[-1][0]} after{took}"


def measured_on(machine: Mapping[str, Any], versions: Mapping[str, str]) -> Iterator[str]:
    """The machine, and what was measured on it."""
    yield (
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"Linux {machine['kernel']}, {machine['system']}; servers and clients on loopback"
    )
    yield f"- {', '.join(f'{name} {version}' for name, version in versions.items())}"


def _sizes(sizes: Mapping[str, Any]) -> str:
    parts = [
        f"big file {sizes['big_bytes'] // 2**20} MiB",
        f"{sizes['small_files']} small files of {sizes['small_bytes'] // 1024} KiB",
        f"tree of {sizes['folders'] * (1 + sizes['files_per_folder'])} entries",
        f"{sizes['random_reads']} random reads",
        f"{sizes['idle_sessions']} idle sessions",
        f"{sizes['logins']} logins at once",
    ]
    if "parts" in sizes:
        parts += [
            f"{sizes['parts']} parts of {sizes['part_bytes'] // 2**20} MiB",
            f"{sizes['busy_sessions']} busy sessions",
            f"from the disk {sizes['cold_bytes'] // 2**20} MiB and {sizes['cold_reads']} reads",
            f"growth {sizes['growth_bytes'] // 2**20} MiB among the sessions",
            f"far {sizes['far_bytes'] // 2**20} MiB and {sizes['far_files']} files",
        ]
    return "; ".join(parts)


def _main_results(run: Run, peers: Sequence[str]) -> Iterator[list[str]]:
    compared = [peer for peer in peers if peer != run.baseline]
    yield ["", "unit", "better", *peers, *(f"{peer} / {run.baseline}" for peer in compared)]
    for each in _with_numbers(run, peers):
        values = (_value(run, each, peer, cell(each.spread(peer))) for peer in peers)
        ratios = (cell(each.ratio(peer, run.baseline)) for peer in compared)
        yield [*_named(each), *values, *ratios]


def _other_results(run: Run, peers: Sequence[str], others: Sequence[str]) -> Iterator[list[str]]:
    yield ["", "unit", "better", *peers]
    for each in _with_numbers(run, others):
        yield [*_named(each), *(_value(run, each, peer, _brief(run, each, peer)) for peer in peers)]


def _with_numbers(run: Run, peers: Sequence[str]) -> Iterator[Measurement]:
    """What one of the peers has numbers of, or failures."""
    for each in run.measurements:
        if any(each.spread(peer) or run.failed(peer, each.workload) for peer in peers):
            yield each


def _named(measurement: Measurement) -> list[str]:
    metric = measurement.metric
    return [metric.title, metric.unit, "more" if metric.higher_is_better else "less"]


def _value(run: Run, measurement: Measurement, peer: str, numbers: str) -> str:
    """The numbers of a peer, and what became of the rounds that have none."""
    failed = run.failed(peer, measurement.workload)
    if measurement.spread(peer) is None:
        return "failed" if failed else "-"
    return f"{numbers}, {failed} failed" if failed else numbers


def _brief(run: Run, measurement: Measurement, peer: str) -> str:
    found, compared = measurement.spread(peer), measurement.ratio(peer, run.baseline)
    if found is None or compared is None or peer == run.baseline:
        return "-" if found is None else number(found.median)
    return f"{number(found.median)} ({number(compared.median)})"


def _targets(found: Sequence[Outcome]) -> Iterator[list[str]]:
    yield ["sftp-gateway", "target", "measured", "reached"]
    for outcome in found:
        target = outcome.target
        sign = "at most" if target.at_most else "at least"
        against = "" if target.against is None else f" / {target.against}"
        yield [
            f"{outcome.title}{against}",
            f"{sign} {number(target.bound)}",
            cell(outcome.measured),
            "yes" if outcome.reached else "**no**",
        ]


def _failures(run: Run) -> Iterator[str]:
    for peer, reason in run.left_out.items():
        yield f"- {peer} did not take part: {reason}"
    for each in run.failures:
        when = f"round {each.round}" if each.round else "before the first round"
        yield f"- {each.peer}, {each.workload}, {when}: {each.error}"


def table(rows: Iterator[list[str]]) -> Iterator[str]:
    """Rows, the first of which is the header."""
    header = next(rows)
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(row)} |"


def cell(of: Spread | None) -> str:
    """A median, with the least and the greatest in brackets."""
    if of is None:
        return "-"
    return f"**{number(of.median)}** ({number(of.min)}-{number(of.max)})"


def number(value: float) -> str:
    """Three digits that count, or all of a greater number."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
