"""A token bucket: how much may be done now, and when there may be more. No clock of its own."""

from __future__ import annotations


class TokenBucket:
    """Fills with `rate` tokens a second up to `capacity`; begins full.

    What is spent may be more than there is: the debt has to be filled up before there is anything
    again, so that over any time no more than `rate * time + capacity` and the last spending are
    spent. `now` is in seconds of a clock that never goes back.
    """

    def __init__(self, *, rate: float, capacity: float, now: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._level = capacity
        self._since = now

    def level(self, now: float) -> float:
        """The tokens that there are; below 0, so many are owed."""
        filled = self._level + self._rate * max(0.0, now - self._since)
        self._level, self._since = min(self._capacity, filled), max(self._since, now)
        return self._level

    def spend(self, tokens: float, now: float, *, owe: bool = True) -> None:
        """Take tokens out; with `owe` False no more than there are."""
        left = self.level(now) - tokens
        self._level = left if owe else max(0.0, left)

    def delay(self, now: float) -> float:
        """Seconds until nothing is owed any more; 0 where that is so."""
        return max(0.0, -self.level(now) / self._rate)

    def change(self, *, rate: float, capacity: float, now: float) -> None:
        """Fill at another rate from now on."""
        self.level(now)
        self._rate, self._capacity = rate, capacity
        self._level = min(self._level, capacity)
