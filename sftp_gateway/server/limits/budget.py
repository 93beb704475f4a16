"""The memory that responses may take together while clients do not read them."""

from __future__ import annotations

import time
from typing import Final, Protocol

#: Bytes buffered for all clients of a process, beyond which sessions get smaller buffers.
BUDGET: Final = 128 * 1024 * 1024

#: Seconds between two recounts.
_RECOUNT_INTERVAL: Final = 0.1


class BufferOwner(Protocol):
    """A channel, as the budget knows it."""

    @property
    def buffered(self) -> int:
        """Bytes of responses that the client has not read."""
        ...


class BufferBudget:
    """Counts the bytes that are buffered for clients."""

    def __init__(self, limit: int = BUDGET) -> None:
        self._limit = limit
        self._buffered: dict[BufferOwner, int] = {}
        self._sum = 0
        self._recounted = 0.0

    def update(self, owner: BufferOwner) -> bool:
        """Count `owner` again; return whether it has anything buffered."""
        buffered = owner.buffered
        self._sum += buffered - self._buffered.pop(owner, 0)
        if buffered:
            self._buffered[owner] = buffered
        return buffered > 0

    def remove(self, owner: BufferOwner) -> None:
        """Count `owner` no more."""
        self._sum -= self._buffered.pop(owner, 0)

    @property
    def exhausted(self) -> bool:
        """Whether sessions have to use smaller buffers."""
        if self._sum >= self._limit:
            self._recount()
        return self._sum >= self._limit

    def _recount(self) -> None:
        # Nobody reports that a buffer has drained.
        now = time.monotonic()
        if now >= self._recounted + _RECOUNT_INTERVAL:
            self._recounted = now
            for owner in tuple(self._buffered):
                self.update(owner)
