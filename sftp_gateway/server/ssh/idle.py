"""Notices a client that asks for nothing any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

#: Looks in the time that a client may be idle. It costs requests nothing, and a client may stay
#: idle for one look longer.
_LOOKS: Final = 4


class IdleWatch:
    """Calls `expired`, once, when nothing was asked for `seconds` (and at most a quarter more).

    `active` gives a number that changes with every request, or None while one is under way. Has
    to be made on the event loop.
    """

    def __init__(
        self, *, seconds: float, active: Callable[[], int | None], expired: Callable[[], None]
    ) -> None:
        self._pause = seconds / _LOOKS
        self._active = active
        self._expired = expired
        self._seen = active()
        self._unchanged = 0
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._look)

    def _look(self) -> None:
        seen = self._active()
        self._unchanged = self._unchanged + 1 if seen is not None and seen == self._seen else 0
        self._seen = seen
        if self._unchanged > _LOOKS:
            self._expired()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()
