"""Who is connected, and to which worker the next one goes: plain decisions, no sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

_Key = TypeVar("_Key", int, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """One open connection; `user` is None until it is logged in, by `credential`."""

    worker: int
    source: str
    user: str | None = None
    credential: str = ""


class Admission:
    """The open connections of all workers: by worker, source and user.

    `source` is an address; `block_of` gives the block that it counts with.
    """

    def __init__(self, block_of: Callable[[str], str] = str) -> None:
        self._block_of = block_of
        self._connections: dict[int, Entered] = {}
        self._by_worker: Counter[int] = Counter()
        self._by_source: Counter[str] = Counter()
        self._by_block: Counter[str] = Counter()
        self._waiting_by_block: Counter[str] = Counter()
        self._by_user: dict[str, Counter[int]] = {}
        self._waiting = 0
        self._latest: dict[int, int] = {}
        self._numbers = count(1)

    @property
    def total(self) -> int:
        """How many are open."""
        return len(self._connections)

    def of_worker(self, worker: int) -> int:
        """How many of them `worker` has."""
        return self._by_worker[worker]

    @property
    def waiting(self) -> int:
        """How many are open and not logged in."""
        return self._waiting

    def of_block(self, source: str) -> tuple[int, int]:
        """How many the source's block has open, and how many of those are not logged in."""
        block = self._block_of(source)
        return self._by_block[block], self._waiting_by_block[block]

    def of_user(self, user: str) -> dict[int, int]:
        """How many the user has open, by worker."""
        return dict(self._by_user.get(user, {}))

    def logged_in_sources(self) -> Iterator[str]:
        """The address of each connection that is logged in."""
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
        self._waiting_by_block.clear()
        for each in self._connections.values():
            self._count_block(each, 1)

    def busiest(self) -> tuple[str | None, int]:
        """The source with the most of them, and how many; (None, 0) where there are none."""
        return next(iter(self._by_source.most_common(1)), (None, 0))

    def in_turn(self, workers: Iterable[int]) -> list[int]:
        """Those with the fewest connections first, among them who got one longest ago."""
        return sorted(workers, key=lambda w: (self._by_worker[w], self._latest.get(w, 0)))

    def enter(self, worker: int, source: str) -> int:
        """`worker` gets a connection from `source`; return the connection's number."""
        number = next(self._numbers)
        entered = self._connections[number] = Entered(worker=worker, source=source)
        self._count(entered, 1)
        self._latest[worker] = number
        return number

    def logged_in(
        self, number: int, worker: int, user: str, credential: str = ""
    ) -> Entered | None:
        """`worker` says that its connection is logged in; None where that cannot be.

        With an empty `user` it counts for no user.
        """
        entered = self._connections.get(number)
        if entered is None or entered.worker != worker or entered.user is not None:
            return None
        self._count(entered, -1)
        entered = replace(entered, user=user, credential=credential)
        self._connections[number] = entered
        self._count(entered, 1)
        return entered

    def of_number(self, number: int, worker: int) -> Entered | None:
        """The connection of this number, if it is the worker's."""
        entered = self._connections.get(number)
        return entered if entered is not None and entered.worker == worker else None

    def entered_of(self, worker: int) -> list[Entered]:
        """The connections of `worker`."""
        return [each for each in self._connections.values() if each.worker == worker]

    def leave(self, number: int, worker: int) -> Entered | None:
        """`worker` says that its connection has ended. What is not its own counts for nothing."""
        entered = self._connections.get(number)
        if entered is None or entered.worker != worker:
            return None
        del self._connections[number]
        self._count(entered, -1)
        return entered

    def worker_ended(self, worker: int) -> list[Entered]:
        """All connections of `worker` have ended with it: these."""
        numbers = [n for n, each in self._connections.items() if each.worker == worker]
        left = [entered for n in numbers if (entered := self.leave(n, worker)) is not None]
        del self._by_worker[worker]
        self._latest.pop(worker, None)
        return left

    def _count(self, entered: Entered, by: int) -> None:
        _add(self._by_worker, entered.worker, by)
        _add(self._by_source, entered.source, by)
        self._count_block(entered, by)
        if entered.user is None:
            self._waiting += by
        elif entered.user:
            counts = self._by_user.setdefault(entered.user, Counter())
            _add(counts, entered.worker, by)
            if not counts:
                del self._by_user[entered.user]

    def _count_block(self, entered: Entered, by: int) -> None:
        block = self._block_of(entered.source)
        _add(self._by_block, block, by)
        if entered.user is None:
            _add(self._waiting_by_block, block, by)


def _add(counter: Counter[_Key], key: _Key, by: int) -> None:
    counter[key] += by
    if not counter[key]:
        del counter[key]
