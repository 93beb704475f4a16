"""How much memory clients that do not take what they asked for may cost, all together."""

from __future__ import annotations

import time
from typing import Final, Protocol

#: Bytes that wait for clients in one process before sessions get less room.
BUDGET: Final = 128 * 1024 * 1024

#: Seconds between two times that everything is counted again.
_RECOUNT_INTERVAL: Final = 0.1


class BufferOwner(Protocol):
    """A session, as far as the budget goes."""

    @property
    def buffered(self) -> int:
        """Bytes that it has made and its client has not taken."""
        ...


class BufferBudget:
    """Counts the bytes that sessions have made and their clients have not taken."""

    def __init__(self, limit: int = BUDGET) -> None:
        self._limit = limit
        self._buffered: dict[BufferOwner, int] = {}
        self._sum = 0
        self._recounted = 0.0

    def update(self, owner: BufferOwner) -> bool:
        """`owner` has made more; return whether it holds anything."""
        buffered = owner.buffered
        self._sum += buffered - self._buffered.pop(owner, 0)
        if buffered:
            self._buffered[owner] = buffered
        return buffered > 0

    def remove(self, owner: BufferOwner) -> None:
        """`owner` is gone."""
        self._sum -= self._buffered.pop(owner, 0)

    @property
    def exhausted(self) -> bool:
        """Whether every session has to do with little room now."""
        if self._sum >= self._limit:
            self._recount()
        return self._sum >= self._limit

    def _recount(self) -> None:
        # Buffers get empty without a word.
        now = time.monotonic()
        if now >= self._recounted + _RECOUNT_INTERVAL:
            self._recounted = now
            for owner in tuple(self._buffered):
                self.update(owner)
