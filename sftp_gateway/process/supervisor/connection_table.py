"""Which connections are open, and which worker gets the next one. Has no sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

_Key = TypeVar("_Key", int, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRecord:
    """One open connection; `user` is None until it has logged in, with `credential`."""

    worker: int
    source: str
    user: str | None = None
    credential: str = ""


class ConnectionTable:
    """The open connections of all workers, by worker, source and user.

    A source is an address; `block_of` returns the block that it is counted with.
    """

    def __init__(self, block_of: Callable[[str], str] = str) -> None:
        self._block_of = block_of
        self._connections: dict[int, ConnectionRecord] = {}
        self._by_worker: Counter[int] = Counter()
        self._by_source: Counter[str] = Counter()
        self._by_block: Counter[str] = Counter()
        self._unauthenticated_by_block: Counter[str] = Counter()
        self._by_user: dict[str, Counter[int]] = {}
        self._unauthenticated = 0
        self._latest: dict[int, int] = {}
        self._numbers = count(1)

    @property
    def total(self) -> int:
        """How many are open."""
        return len(self._connections)

    def worker_count(self, worker: int) -> int:
        """How many of them `worker` has."""
        return self._by_worker[worker]

    @property
    def unauthenticated(self) -> int:
        """How many are open and have not logged in."""
        return self._unauthenticated

    def block_counts(self, source: str) -> tuple[int, int]:
        """How many the source's block has open, and how many of those have not logged in."""
        block = self._block_of(source)
        return self._by_block[block], self._unauthenticated_by_block[block]

    def user_counts(self, user: str) -> dict[int, int]:
        """How many the user has open, by worker."""
        return dict(self._by_user.get(user, {}))

    def logged_in_sources(self) -> Iterator[str]:
        """The address of each authenticated connection."""
        return (each.source for each in self._connections.values() if each.user is not None)

    def logins(self) -> Counter[tuple[str, str]]:
        """How many are logged in, by user and credential."""
        return Counter(
            (each.user, each.credential) for each in self._connections.values() if each.user
        )

    def regroup(self, block_of: Callable[[str], str]) -> None:
        """Count by other blocks from now on."""
        self._block_of = block_of
        self._by_block.clear()
        self._unauthenticated_by_block.clear()
        for each in self._connections.values():
            self._count_block(each, 1)

    def busiest(self) -> tuple[str | None, int]:
        """The source with the most connections, and their number; (None, 0) if there are none."""
        return next(iter(self._by_source.most_common(1)), (None, 0))

    def least_loaded_first(self, workers: Iterable[int]) -> list[int]:
        """Sorted by number of connections, then by who got one longest ago."""
        return sorted(workers, key=lambda w: (self._by_worker[w], self._latest.get(w, 0)))

    def add(self, worker: int, source: str) -> int:
        """Add a connection from `source` to `worker`; return its number."""
        number = next(self._numbers)
        record = self._connections[number] = ConnectionRecord(worker=worker, source=source)
        self._count(record, 1)
        self._latest[worker] = number
        return number

    def logged_in(
        self, number: int, worker: int, user: str, credential: str = ""
    ) -> ConnectionRecord | None:
        """A connection of `worker` has logged in; None if it is not its own, or has already.

        With an empty `user`, it is counted for no user.
        """
        record = self._connections.get(number)
        if record is None or record.worker != worker or record.user is not None:
            return None
        self._count(record, -1)
        record = replace(record, user=user, credential=credential)
        self._connections[number] = record
        self._count(record, 1)
        return record

    def get(self, number: int, worker: int) -> ConnectionRecord | None:
        """The connection of this number, if it is the worker's."""
        record = self._connections.get(number)
        return record if record is not None and record.worker == worker else None

    def records_of(self, worker: int) -> list[ConnectionRecord]:
        """The connections of `worker`."""
        return [each for each in self._connections.values() if each.worker == worker]

    def remove(self, number: int, worker: int) -> ConnectionRecord | None:
        """Remove a connection of `worker`; None if it is not its own."""
        record = self._connections.get(number)
        if record is None or record.worker != worker:
            return None
        del self._connections[number]
        self._count(record, -1)
        return record

    def worker_ended(self, worker: int) -> list[ConnectionRecord]:
        """Remove all connections of `worker`, and return them."""
        numbers = [n for n, each in self._connections.items() if each.worker == worker]
        left = [record for n in numbers if (record := self.remove(n, worker)) is not None]
        del self._by_worker[worker]
        self._latest.pop(worker, None)
        return left

    def _count(self, record: ConnectionRecord, by: int) -> None:
        _add(self._by_worker, record.worker, by)
        _add(self._by_source, record.source, by)
        self._count_block(record, by)
        if record.user is None:
            self._unauthenticated += by
        elif record.user:
            counts = self._by_user.setdefault(record.user, Counter())
            _add(counts, record.worker, by)
            if not counts:
                del self._by_user[record.user]

    def _count_block(self, record: ConnectionRecord, by: int) -> None:
        block = self._block_of(record.source)
        _add(self._by_block, block, by)
        if record.user is None:
            _add(self._unauthenticated_by_block, block, by)


def _add(counter: Counter[_Key], key: _Key, by: int) -> None:
    counter[key] += by
    if not counter[key]:
        del counter[key]
