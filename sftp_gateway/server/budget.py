"""How much memory clients that do not take what they asked for may cost, all together."""

from __future__ import annotations

from typing import Final

#: Bytes that wait for clients in one process before sessions get less room.
BUDGET: Final = 128 * 1024 * 1024


class Budget:
    """Counts the bytes that sessions have made and their clients have not taken."""

    def __init__(self, limit: int = BUDGET) -> None:
        self._limit = limit
        self.held = 0

    @property
    def spent(self) -> bool:
        """Whether every session has to do with little room now."""
        return self.held >= self._limit
