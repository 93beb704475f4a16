"""The idle timeout of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

#: Checks within the timeout. Requests pay nothing; a client may stay idle for one check longer.
_CHECKS: Final = 4


class IdleTimer:
    """Calls `expired`, once, when nothing was requested for `seconds` (and at most a quarter more).

    `activity` returns a number that changes with every request, or None while one is pending.
    Made on the event loop.
    """

    def __init__(
        self, *, seconds: float, activity: Callable[[], int | None], expired: Callable[[], None]
    ) -> None:
        self._interval = seconds / _CHECKS
        self._activity = activity
        self._expired = expired
        self._last = activity()
        self._unchanged = 0
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._check)

    def _check(self) -> None:
        now = self._activity()
        self._unchanged = self._unchanged + 1 if now is not None and now == self._last else 0
        self._last = now
        if self._unchanged > _CHECKS:
            self._expired()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._check)

    def stop(self) -> None:
        """Cancel the timeout."""
        self._timer.cancel()
