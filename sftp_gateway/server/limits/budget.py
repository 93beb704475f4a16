"""How much memory clients that do not take what they asked for may cost, all together."""

from __future__ import annotations

import time
from typing import Final, Protocol

#: Bytes that wait for clients in one process before sessions get less room.
BUDGET: Final = 128 * 1024 * 1024

#: Seconds between two times that everything is counted again.
_RECOUNT_INTERVAL: Final = 0.1


class Holder(Protocol):
    """A session, as far as the budget goes."""

    @property
    def held(self) -> int:
        """Bytes that it has made and its client has not taken."""
        ...


class Budget:
    """Counts the bytes that sessions have made and their clients have not taken."""

    def __init__(self, limit: int = BUDGET) -> None:
        self._limit = limit
        self._held: dict[Holder, int] = {}
        self._sum = 0
        self._recounted = 0.0

    def count(self, holder: Holder) -> bool:
        """`holder` has made more; return whether it holds anything."""
        held = holder.held
        self._sum += held - self._held.pop(holder, 0)
        if held:
            self._held[holder] = held
        return held > 0

    def forget(self, holder: Holder) -> None:
        """`holder` is gone."""
        self._sum -= self._held.pop(holder, 0)

    @property
    def spent(self) -> bool:
        """Whether every session has to do with little room now."""
        if self._sum >= self._limit:
            self._recount()
        return self._sum >= self._limit

    def _recount(self) -> None:
        # Buffers get empty without a word.
        now = time.monotonic()
        if now >= self._recounted + _RECOUNT_INTERVAL:
            self._recounted = now
            for holder in tuple(self._held):
                self.count(holder)
