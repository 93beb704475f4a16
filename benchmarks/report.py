"""A run's numbers: kept, summed up, written as JSON and read from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.workloads import Metric

#: One number for each round; None where the peer did not take part in it or failed.
Rounds = list[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of the rounds, and the least and greatest of them."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(median=median(values), min=min(values), max=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one metric of a workload came to, by peer."""

    workload: str
    metric: Metric
    peers: dict[str, Rounds] = field(default_factory=dict)

    def spread(self, peer: str) -> Spread | None:
        """The peer's rounds summed up; None if it has no number."""
        return spread(self._numbers(peer))

    def ratio(self, peer: str, baseline: str) -> Spread | None:
        """A peer's numbers by another's: of the medians, and the spread over pairs of a round.

        None where there is no pair, or the other has a zero.
        """
        pairs = [
            (one, other)
            for one, other in zip(
                self.peers.get(peer, ()), self.peers.get(baseline, ()), strict=False
            )
            if one is not None and other is not None
        ]
        if not pairs or not all(other for _, other in pairs):
            return None
        ratios = [one / other for one, other in pairs]
        medians = median(self._numbers(peer)) / median(self._numbers(baseline))
        return Spread(median=medians, min=min(ratios), max=max(ratios))

    def _numbers(self, peer: str) -> list[float]:
        return [value for value in self.peers.get(peer, ()) if value is not None]


@dataclass(frozen=True, slots=True)
class Failure:
    """A workload that a peer did not get through, in round `round` (from 1; 0: before all)."""

    peer: str
    workload: str
    round: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything about one run; times of day in UTC."""

    date: str
    #: Minutes that all of it took.
    minutes: float
    quick: bool
    #: What baseline and subject of the ratios are called.
    baseline: str
    sizes: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    #: One entry before each round and one after the last: averages over 1, 5 and 15 minutes.
    load_averages: Sequence[Sequence[float]]
    #: The delaying proxy: `round_trip` in ms, and MB/s (`rate`) that it carries without delay.
    link: Mapping[str, float] | None
    #: By peer: `cipher` and `setup`.
    peers: Mapping[str, Mapping[str, str]]
    #: By peer that did not take part: why.
    left_out: Mapping[str, str]
    failures: Sequence[Failure]
    measurements: Sequence[Measurement]

    @property
    def rounds(self) -> int:
        """How often each workload was run against each main peer."""
        return len(self.load_averages) - 1

    def measurement(self, metric: str) -> Measurement | None:
        """That of a metric, if it was measured."""
        return next((each for each in self.measurements if each.metric.name == metric), None)

    def failed(self, peer: str, workload: str) -> int:
        """In how many rounds a peer did not get through."""
        return sum((each.peer, each.workload) == (peer, workload) for each in self.failures)


def spread(values: Sequence[float]) -> Spread | None:
    """Sum up the rounds of one measurement; None if there are none."""
    if not values:
        return None
    return Spread.of(values)


def as_json(run: Run) -> dict[str, Any]:
    """The whole run, with the numbers of every round."""
    return {
        "schema": 2,
        "date": run.date,
        "minutes": run.minutes,
        "quick": run.quick,
        "rounds": run.rounds,
        "sizes": dict(run.sizes),
        "machine": dict(run.machine),
        "versions": dict(run.versions),
        "load_averages": [list(each) for each in run.load_averages],
        "link": run.link and dict(run.link),
        "peers": {name: dict(facts) for name, facts in run.peers.items()},
        "left_out": dict(run.left_out),
        "baseline": run.baseline,
        "failures": [asdict(each) for each in run.failures],
        "measurements": [_measurement_as_json(run, each) for each in run.measurements],
    }


def _measurement_as_json(run: Run, measurement: Measurement) -> dict[str, Any]:
    peers: dict[str, Any] = {}
    for peer, rounds in measurement.peers.items():
        peers[peer] = {"rounds": rounds}
        if (found := measurement.spread(peer)) is not None:
            peers[peer] |= asdict(found)
        compared = measurement.ratio(peer, run.baseline)
        if peer != run.baseline and compared is not None:
            peers[peer]["ratio"] = asdict(compared)
    return {"workload": measurement.workload, **asdict(measurement.metric), "peers": peers}


def from_json(document: Mapping[str, Any]) -> Run:
    """The inverse of `as_json`; recomputes sums and ratios.

    Results of schema 1 lack what that did not have. Raises KeyError and ValueError for others.
    """
    if document["schema"] not in (1, 2):
        raise ValueError(f"results of schema {document['schema']} cannot be read")
    return Run(
        date=document["date"],
        minutes=document.get("minutes", 0),
        quick=document["quick"],
        baseline=document["baseline"],
        sizes=document["sizes"],
        machine=document["machine"],
        versions=document["versions"],
        load_averages=document["load_averages"],
        link=document.get("link"),
        peers=document["peers"],
        left_out=document.get("left_out", {}),
        failures=[Failure(**each) for each in document.get("failures", ())],
        measurements=[
            Measurement(
                workload=each["workload"],
                metric=Metric(
                    name=each["name"],
                    title=each["title"],
                    unit=each["unit"],
                    higher_is_better=each["higher_is_better"],
                ),
                peers={peer: numbers["rounds"] for peer, numbers in each["peers"].items()},
            )
            for each in document["measurements"]
        ],
    )
