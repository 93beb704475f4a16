"""How fast all sessions of one user may be served."""

from __future__ import annotations

import time
from collections.abc import Callable

from sftp_gateway.token_bucket import TokenBucket


class BandwidthLimiter:
    """The limit of one user, in bytes a second, as far as it is this process's.

    Sessions say what they have sent, and wait while more was sent than may be: so they are never
    ahead by more than one piece each, and one second's worth.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._bucket = TokenBucket(rate=limit, capacity=limit, now=clock())

    def set_share(self, part: float) -> float:
        """Only so much of the limit, 0 to 1, is ours: the user has sessions elsewhere.

        Returns it in bytes a second. Without any session there is nothing to share, and the next
        one begins with all of it.
        """
        rate = self._limit * (part or 1.0)
        self._bucket.change(rate=rate, capacity=rate, now=self._clock())
        return self._limit * part

    def consume(self, count: int) -> None:
        """So many bytes were sent."""
        self._bucket.spend(count, self._clock())

    def delay(self) -> float:
        """Seconds to wait before anything more is sent."""
        return self._bucket.delay(self._clock())
