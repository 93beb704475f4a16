"""How soon a process is restarted after it has ended."""

from __future__ import annotations

from typing import Final

#: Seconds after which a process counts as having run.
MIN_UPTIME: Final = 10.0

MIN_DELAY: Final = 0.1
MAX_DELAY: Final = 10.0


class RestartBackoff:
    """No delay after a process that ran; a doubling delay after those that ended early."""

    def __init__(self) -> None:
        self._next = 0.0

    def delay_after(self, lived: float) -> float:
        """Seconds to wait after a process that ran for `lived` seconds."""
        if lived >= MIN_UPTIME:
            self._next = 0.0
        delay = self._next
        self._next = min(MAX_DELAY, max(MIN_DELAY, 2 * delay))
        return delay
