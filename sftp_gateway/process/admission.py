"""Who is connected, and to which worker the next one goes: plain decisions, no sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import count


class Admission:
    """The open connections of all workers, counted by worker and by source address."""

    def __init__(self) -> None:
        self._connections: dict[int, tuple[int, str]] = {}
        self._by_worker: Counter[int] = Counter()
        self._by_source: Counter[str] = Counter()
        self._latest: dict[int, int] = {}
        self._numbers = count(1)

    @property
    def total(self) -> int:
        """How many are open."""
        return len(self._connections)

    def of_worker(self, worker: int) -> int:
        """How many of them `worker` has."""
        return self._by_worker[worker]

    def busiest(self) -> tuple[str | None, int]:
        """The source with the most of them, and how many; (None, 0) where there are none."""
        return next(iter(self._by_source.most_common(1)), (None, 0))

    def in_turn(self, workers: Iterable[int]) -> list[int]:
        """Those with the fewest connections first, among them who got one longest ago."""
        return sorted(workers, key=lambda w: (self._by_worker[w], self._latest.get(w, 0)))

    def enter(self, worker: int, source: str) -> int:
        """`worker` gets a connection from `source`; return the connection's number."""
        number = next(self._numbers)
        self._connections[number] = worker, source
        self._by_worker[worker] += 1
        self._by_source[source] += 1
        self._latest[worker] = number
        return number

    def leave(self, number: int, worker: int) -> None:
        """`worker` says that its connection has ended. What is not its own counts for nothing."""
        owner, source = self._connections.get(number, (None, ""))
        if owner != worker:
            return
        del self._connections[number]
        self._by_worker[worker] -= 1
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]

    def worker_ended(self, worker: int) -> int:
        """All connections of `worker` have ended with it; how many these were."""
        numbers = [n for n, (owner, _) in self._connections.items() if owner == worker]
        for number in numbers:
            self.leave(number, worker)
        del self._by_worker[worker]
        self._latest.pop(worker, None)
        return len(numbers)
