"""Random early drop of connections that have not logged in, as sshd_config(5), MaxStartups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Startups:
    """`start:rate:full`: from `start` on, `rate` of 100 are refused, from `full` on all.

    In between the part grows evenly, so that who floods cannot say when others get in.
    """

    start: int
    rate: int
    full: int

    @classmethod
    def parse(cls, text: str) -> Startups:
        """Read `start:rate:full`, or `full` alone. Raises ValueError."""
        parts = [int(part) for part in text.split(":")]
        return cls(parts[0], 100, parts[0]) if len(parts) == 1 else cls(*parts)

    def refuses(self, waiting: int, dice: Callable[[], float]) -> bool:
        """Whether to refuse the next one while so many wait; `dice` gives 0 <= number < 1."""
        if waiting < self.start:
            return False
        if waiting >= self.full:
            return True
        grown = (100 - self.rate) * (waiting - self.start) / (self.full - self.start)
        return dice() * 100 < self.rate + grown
