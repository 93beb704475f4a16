"""The bandwidth limit of a user."""

from __future__ import annotations

import time
from collections.abc import Callable

from sftp_gateway.token_bucket import TokenBucket


class BandwidthLimiter:
    """This worker's share of a user's limit, in bytes per second.

    Sessions report what they have sent, and wait while it exceeds the limit. They exceed it by at
    most one second's worth, and one piece each.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._bucket = TokenBucket(rate=limit, capacity=limit, now=clock())

    def set_share(self, share: float) -> float:
        """Set this worker's share of the limit, 0 to 1; return it in bytes per second.

        Without sessions (0), the next one starts with the whole limit.
        """
        rate = self._limit * (share or 1.0)
        self._bucket.change(rate=rate, capacity=rate, now=self._clock())
        return self._limit * share

    def consume(self, count: int) -> None:
        """Report `count` bytes as sent."""
        self._bucket.spend(count, self._clock())

    def delay(self) -> float:
        """Seconds to wait before more is sent."""
        return self._bucket.delay(self._clock())
