"""Random early drop of connections that have not logged in, as sshd_config(5), MaxStartups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RandomEarlyDrop:
    """`start:rate:full`: from `start` on, `rate` percent are dropped, from `full` on all.

    In between, the percentage grows linearly, so a flood cannot shut out all others.
    """

    start: int
    rate: int
    full: int

    @classmethod
    def parse(cls, text: str) -> RandomEarlyDrop:
        """Read `start:rate:full`, or `full` alone. Raises ValueError."""
        session_fractions = [int(part) for part in text.split(":")]
        return (
            cls(session_fractions[0], 100, session_fractions[0])
            if len(session_fractions) == 1
            else cls(*session_fractions)
        )

    def drops(self, unauthenticated: int, rng: Callable[[], float]) -> bool:
        """Whether to drop the next connection; `rng` returns a number in [0, 1)."""
        if unauthenticated < self.start:
            return False
        if unauthenticated >= self.full:
            return True
        grown = (100 - self.rate) * (unauthenticated - self.start) / (self.full - self.start)
        return rng() * 100 < self.rate + grown
