"""The count of SFTP requests, which every request passes through.

It does what three metrics of prometheus_client would do, for one lock, one look-up and one
`bisect`, rather than three locks, three look-ups and a search through the buckets in Python.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sftp_gateway.observability.labels import OTHER, Vocabulary, known

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


class RequestTally(Collector):
    """Requests, their durations and the file bytes they sent, by share and operation.

    `add` may be called from any thread; `collect` reads beside it without holding it up.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._cells: dict[tuple[str, str], _Cell] = {}
        self._lock = threading.Lock()

    def add(self, share: str, operation: str, result: str, seconds: float, bytes_sent: int) -> None:
        """Count one answered request."""
        with self._lock:
            cell = self._cells.get((share, operation)) or self._cell(share, operation)
            if result not in cell.results:
                result = OTHER
            cell.results[result] += 1
            cell.buckets[bisect_left(BUCKETS, seconds)] += 1
            cell.seconds += seconds
            cell.bytes_sent += bytes_sent

    def _cell(self, share: str, operation: str) -> _Cell:
        key = share, known(operation, self._vocabulary.operations)
        return self._cells.setdefault(key, _Cell(self._vocabulary))

    def collect(self) -> Iterator[Metric]:
        """The metric families `requests`, `request_duration_seconds` and `bytes_sent`."""
        # dict.copy is one step for Python's global lock; the cells themselves only ever grow.
        cells = self._cells.copy()
        requests = CounterMetricFamily(
            "sftp_gateway_requests",
            "SFTP requests answered.",
            labels=["share", "operation", "result"],
        )
        durations = HistogramMetricFamily(
            "sftp_gateway_request_duration_seconds",
            "Time from a request's arrival to its answer.",
            labels=["share", "operation"],
        )
        sent = CounterMetricFamily(
            "sftp_gateway_bytes_sent", "Bytes of files sent in READ answers.", labels=["share"]
        )
        sent_by_share: Counter[str] = Counter()
        bounds = [*map(str, BUCKETS), "+Inf"]
        for (share, operation), cell in cells.items():
            for result, count in cell.results.items():
                if count:
                    requests.add_metric([share, operation, result], count)
            counts = accumulate(cell.buckets.copy())
            buckets = list(zip(bounds, map(float, counts), strict=True))
            durations.add_metric([share, operation], buckets, cell.seconds)
            sent_by_share[share] += cell.bytes_sent
        for share, count in sent_by_share.items():
            sent.add_metric([share], count)
        yield from (requests, durations, sent)


class _Cell:
    """The numbers of one operation on one share."""

    __slots__ = ("buckets", "bytes_sent", "results", "seconds")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.results = dict.fromkeys([*sorted(vocabulary.results), OTHER], 0)
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.bytes_sent = 0
