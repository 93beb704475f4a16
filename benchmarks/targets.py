"""What the gateway is meant to reach, and whether a run shows that it does."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.peers import BASELINE, GATEWAY
from benchmarks.report import Run, Spread

_GCM = "openssh-gcm"


@dataclass(frozen=True, slots=True)
class Target:
    """The gateway's `metric`, by that of the peer `against` (None: as it is), and its bound."""

    metric: str
    bound: float
    at_most: bool = False
    against: str | None = BASELINE


#: Of the medians.
TARGETS = (
    Target("sequential", 2.0),
    Target("sequential", 1.4, against=_GCM),
    Target("sequential_cpu", 0.5, at_most=True),
    Target("get", 1.3),
    Target("small", 1.5),
    Target("small_8", 1.25),
    Target("walk", 1.5),
    Target("random", 1.25),
    Target("logins", 4.0),
    Target("logins_refused", 0, at_most=True, against=None),
    Target("memory_session_anonymous", 0.05, at_most=True),
    Target("mount", 0.5, at_most=True),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target with what was measured, and how the rounds spread."""

    target: Target
    title: str
    measured: Spread

    @property
    def reached(self) -> bool:
        """Whether the median is within the bound."""
        compare = operator.le if self.target.at_most else operator.ge
        return bool(compare(self.measured.median, self.target.bound))


def outcomes(run: Run) -> Iterator[Outcome]:
    """Of each target that the run has numbers for."""
    for target in TARGETS:
        measurement = run.measurement(target.metric)
        if measurement is None:
            continue
        measured = (
            measurement.spread(GATEWAY)
            if target.against is None
            else measurement.ratio(GATEWAY, target.against)
        )
        if measured is not None:
            yield Outcome(target, measurement.metric.title, measured)
