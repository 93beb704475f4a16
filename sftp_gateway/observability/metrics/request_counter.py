"""Counts SFTP requests; every request passes through it.

It does what three metrics of prometheus_client would do, with one lock, one look-up and one
`bisect` instead of three locks, three look-ups and a search through the buckets in Python. Values
stay in the process until `publish`, twice a second.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from typing import Final

from sftp_gateway.observability.metrics.shared_memory import SharedValues
from sftp_gateway.observability.vocabulary import OPERATIONS, OTHER, RESULTS, known

#: Upper bounds in seconds: from an answer out of the page cache to a disk that has to spin up.
BUCKETS: Final = (
    0.00005,
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


class RequestCounter:
    """Requests, their durations and the file bytes they sent, by share and operation.

    Both methods may be called from any thread.
    """

    def __init__(self, values: SharedValues) -> None:
        self._cells: dict[tuple[str, str], _Cell] = {}
        self._lock = threading.Lock()
        self._requests = values.counter(
            "requests", "Answered SFTP requests.", "share", "operation", "result"
        )
        self._durations = values.histogram(
            "request_duration_seconds",
            "Time from the arrival of a request to its response.",
            "share",
            "operation",
            bounds=BUCKETS,
        )
        #: Bytes of files by share, as of the last `publish`.
        self.sent: Counter[str] = Counter()
        self._sent = values.counter("bytes_sent", "Bytes of files sent.", "share")

    def add(
        self, share: str, operation: str, result: str, seconds: float, bytes_sent: int = 0
    ) -> None:
        """Count one answered request; `bytes_sent` are bytes of a file."""
        with self._lock:
            cell = self._cells.get((share, operation)) or self._cell(share, operation)
            if result not in cell.results:
                result = OTHER
            cell.results[result] += 1
            cell.buckets[bisect_left(BUCKETS, seconds)] += 1
            cell.seconds += seconds
            cell.bytes_sent += bytes_sent

    def _cell(self, share: str, operation: str) -> _Cell:
        key = share, known(operation, OPERATIONS)
        return self._cells.setdefault(key, _Cell())

    def publish(self) -> None:
        """Hand on what was counted since the last time."""
        with self._lock:
            cells, self._cells = self._cells, {}
        for (share, operation), cell in cells.items():
            for result, count in cell.results.items():
                if count:
                    self._requests.inc(share, operation, result, by=count)
            self._durations.add(share, operation, counts=cell.buckets, total=cell.seconds)
            self._sent.inc(share, by=cell.bytes_sent)
            self.sent[share] += cell.bytes_sent


class _Cell:
    """The numbers of one operation on one share."""

    __slots__ = ("buckets", "bytes_sent", "results", "seconds")

    def __init__(self) -> None:
        self.results = dict.fromkeys([*sorted(RESULTS), OTHER], 0)
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.bytes_sent = 0
