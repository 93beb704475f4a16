"""`python -m tests.support.floods` runs every kind of flood and reports; see scripts/floods."""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support.floods.arena import (
    ATTEMPTS,
    MAX_WORK_BETWEEN,
    Arena,
    Processors,
    Result,
    flooded,
)
from tests.support.floods.kinds import Kind, kinds, short_kinds
from tests.support.floods.phases import PHASES
from tests.support.floods.victim import VictimError

#: Requests of the victim without a flood, per phase; and at least with each flood.
_QUIET_SAMPLES, _SAMPLES = 5000, 300

#: The greatest accepted ratio of p99 in a flood to p99 without one.
_MAX_RATIO = 10.0

#: Work done for the attacker before a flood ends, in requests of the victim.
_WORK = 100 * MAX_WORK_BETWEEN


@dataclass(frozen=True, slots=True)
class _Latencies:
    """Percentiles and maximum, in milliseconds."""

    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, latencies: Sequence[float], every: float) -> _Latencies:
        """From latencies of requests that would arrive every `every` seconds.

        The victim waits for each reply, so a frozen worker delays only one of its requests. Those
        that other clients would have sent meanwhile are added (coordinated omission).
        """
        waits = sorted(
            max(latency - waited * every, 0.0)
            for latency in latencies
            for waited in range(1 + int(latency / every))
        )
        last = len(waits) - 1
        return cls(*(1000 * waits[last * each // 100] if waits else 0.0 for each in (50, 99, 100)))


@dataclass(frozen=True, slots=True)
class _Measured:
    """A flood, and the victim's latencies without and with it."""

    flood: Result
    quiet: _Latencies
    flooded: _Latencies

    @property
    def ratio(self) -> float:
        """p99 in the flood over p99 without it."""
        return self.flooded.p99 / self.quiet.p99

    def complaints(self) -> Iterator[str]:
        yield from self.flood.complaints()
        if self.ratio > _MAX_RATIO:
            yield f"p99 is {self.ratio:.0f} times the quiet one"


@dataclass(slots=True)
class _Run:
    """The results of all floods; `harm` lists lasting damage to gateways."""

    measured: list[_Measured] = field(default_factory=list)
    harm: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.harm and not any(list(each.complaints()) for each in self.measured)


def run(chosen: Sequence[Kind], *, packets: int, folder: Path, processors: Processors) -> _Run:
    """Flood phase by phase, each on its own gateway; a new one if the victim disconnects."""
    done = _Run()
    for phase in PHASES:
        name = phase.name
        left = [kind for kind in chosen if kind.phase == name]
        while left:
            of_gateway = Path(tempfile.mkdtemp(dir=folder))
            renews_keys = phase.renews_keys
            with flooded(of_gateway, renews_keys=renews_keys, processors=processors) as arena:
                for each in _flood_all(arena, left, packets=packets):
                    done.measured.append(each)
                    _print_progress(each, len(done.measured), len(chosen))
                done.harm += [f"{name}: {harm}" for harm in arena.harm()]
    return done


def _flood_all(arena: Arena, left: list[Kind], *, packets: int) -> Iterator[_Measured]:
    """Run kinds from `left` until none is left or the victim disconnects."""
    latencies = arena.measure_quiet(_QUIET_SAMPLES)
    every = statistics.median(latencies)
    quiet = _Latencies.of(latencies, every)
    while left and not arena.broken:
        kind = left.pop(0)
        for _ in range(ATTEMPTS):
            try:
                flood = arena.flood_with_retries(kind, work=_WORK, packets=packets, least=_SAMPLES)
            except (VictimError, EOFError, ConnectionError) as error:
                flood = Result(
                    kind=kind, reached=False, outcome=f"victim or attacker failed: {error}"
                )
            measured = _Measured(
                flood=replace(flood, latencies=()),
                quiet=quiet,
                flooded=_Latencies.of(flood.latencies, every),
            )
            if arena.broken or measured.ratio <= _MAX_RATIO:
                break
        yield measured


def _print_progress(measured: _Measured, number: int, of: int) -> None:
    flood, complaints = measured.flood, "; ".join(measured.complaints())
    print(
        f"{number:6,}/{of:,} {measured.ratio:7.1f} {flood.max_work_between:9,.0f} "
        f"{flood.memory / 1024:6.1f} MiB  {flood.kind}: {flood.outcome}"
        f"{f'  <- {complaints}' if complaints else ''}",
        file=sys.stderr,
    )


def summary(measured: Sequence[_Measured]) -> Iterator[str]:
    """A table of the worst kind of each phase."""
    yield (
        "| phase | kinds | quiet p50, ms | quiet p99 | worst p99 | longest "
        "| ratio | worst kind | memory, MiB | outcomes |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---|---:|---|"
    for name, group in itertools.groupby(measured, lambda each: each.flood.kind.phase):
        each = list(group)
        worst = max(each, key=lambda one: one.ratio)
        kind, quiet = worst.flood.kind, worst.quiet
        ends = Counter(_end(one.flood) for one in each)
        yield (
            f"| {name} | {len(each):,} | {quiet.p50:.2f} | {quiet.p99:.2f} "
            f"| {worst.flooded.p99:.2f} | {worst.flooded.longest:.2f} | {worst.ratio:.1f} "
            f"| {kind.family}: {_shown(kind)} | {max(one.flood.memory for one in each) / 1024:.1f} "
            f"| {', '.join(f'{count} {end}' for end, count in ends.most_common())} |"
        )


def details(measured: Iterable[_Measured]) -> Iterator[str]:
    """A table of all kinds."""
    yield (
        "| phase | family | message | packets | quiet p99, ms | p50 | p99 | longest | ratio "
        "| max work between | memory, MiB | outcome | complaints |"
    )
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---|"
    for each in measured:
        flood, kind = each.flood, each.flood.kind
        yield (
            f"| {kind.phase} | {kind.family} | {_shown(kind)} | {flood.packets:,} "
            f"| {each.quiet.p99:.2f} | {each.flooded.p50:.2f} | {each.flooded.p99:.2f} "
            f"| {each.flooded.longest:.2f} | {each.ratio:.1f} | {flood.max_work_between:,.0f} "
            f"| {flood.memory / 1024:.1f} | {flood.outcome} | {'; '.join(each.complaints())} |"
        )


def _shown(kind: Kind) -> str:
    return kind.name + (f", {kind.how}" if kind.how else "")


def _end(flood: Result) -> str:
    return flood.outcome.partition(":")[0].partition(",")[0]


def main() -> int:
    """Run the floods and print the report; returns 1 if a limit is exceeded."""
    options = _parser().parse_args()
    of_all = short_kinds() if options.short else kinds()
    chosen = [kind for kind in of_all if all(word in str(kind) for word in options.only)]
    first, step = options.part
    chosen = chosen[first - 1 :: step]
    processors = options.processors or Processors.available()
    with tempfile.TemporaryDirectory(prefix="sftp-floods-") as name:
        done = run(chosen, packets=options.packets, folder=Path(name), processors=processors)
    lines = [*summary(done.measured), *(f"\n{harm}" for harm in done.harm)]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join([*lines, "", *details(done.measured), ""]))
    return 0 if done.good else 1


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/4")
    return int(part), int(parts)


def _processors(text: str) -> Processors:
    numbers = text.split(",")
    if len(numbers) != 3 or not all(map(str.isdecimal, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers, such as 0,1,2")
    if missing := {int(number) for number in numbers} - os.sched_getaffinity(0):
        raise argparse.ArgumentTypeError(f"processor {min(missing)} is not available")
    worker, attacker, victim = (frozenset([int(number)]) for number in numbers)
    return Processors(worker, attacker, victim)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/floods",
        description="Flood a gateway with every message in every phase while another user works.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help='only kinds whose names contain all of these, such as "before login:" IGNORE',
    )
    parser.add_argument(
        "--short",
        action="store_true",
        help="only the kinds that the test suite runs, about one in twenty",
    )
    parser.add_argument(
        "--packets", type=int, default=200_000, help="maximum per kind (default: %(default)s)"
    )
    parser.add_argument(
        "--part",
        type=_part,
        default=(1, 1),
        metavar="I/N",
        help="every Nth kind starting with the Ith, to split the work among N runs",
    )
    parser.add_argument(
        "--processors",
        type=_processors,
        metavar="A,B,C",
        help="the worker's, the attacker's and the victim's (default: the first, and all others "
        "for both clients); the gateway's other processes run on the attacker's",
    )
    parser.add_argument("--out", type=Path, help="write a Markdown table of all kinds to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
