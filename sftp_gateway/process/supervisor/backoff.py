"""How long the next worker waits when the last one ended."""

from __future__ import annotations

from typing import Final

#: A worker that ends within so many seconds did so soon.
MIN_UPTIME: Final = 10.0

MIN_DELAY: Final = 0.1
MAX_DELAY: Final = 10.0


class RestartBackoff:
    """At once after a worker that lived; later and later after workers that ended soon."""

    def __init__(self) -> None:
        self._next = 0.0

    def delay_after(self, lived: float) -> float:
        """Seconds to wait after one that lived so many seconds."""
        if lived >= MIN_UPTIME:
            self._next = 0.0
        delay = self._next
        self._next = min(MAX_DELAY, max(MIN_DELAY, 2 * delay))
        return delay
