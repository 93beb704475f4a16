"""A bounded FIFO queue that is fair among owners.

If the queue is full, the owner with the most items in it loses items: minor ones first, the newest
of them first. So an owner never loses items to an owner with more. Not thread-safe.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """`bound` and the sizes of items are in a unit of the caller's choice, such as bytes."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._order: deque[_Entry[T]] = deque()
        self._shares: dict[str | None, _Share[T]] = {}
        self.size = 0

    def size_of(self, owner: str | None) -> int:
        """Total size of the items of `owner`."""
        share = self._shares.get(owner)
        return share.size if share else 0

    def put(
        self,
        item: T,
        *,
        owner: str | None,
        minor: bool = False,
        size: int = 1,
        always: bool = False,
    ) -> list[T]:
        """Add an item; return the items dropped for it, possibly the item itself.

        With `always` it is added even if the queue is full, and nothing is dropped.
        """
        dropped: list[T] = []
        while not always and self.size + size > self._bound:
            own = self._shares.get(owner)
            largest = max(self._shares.values(), key=lambda share: share.size, default=None)
            if largest is not None and own is not None and own.size + size >= largest.size:
                largest = own
            if largest is None or (largest is own and (minor or not largest.minor)):
                dropped.append(item)
                return dropped
            dropped.append(self._drop_newest(largest))
        entry = _Entry(item, size, owner, minor)
        share = self._shares.get(owner)
        if share is None:
            share = self._shares[owner] = _Share()
        share.of(minor).append(entry)
        share.size += size
        self.size += size
        self._order.append(entry)
        return dropped

    def take(self, most: int) -> list[T]:
        """Remove and return the oldest items, at most `most`."""
        taken: list[T] = []
        while self._order and len(taken) < most:
            entry = self._order.popleft()
            if entry.dropped:
                continue
            share = self._shares[entry.owner]
            share.of(entry.minor).popleft()
            self._account(entry, share)
            taken.append(entry.item)
        return taken

    def _drop_newest(self, share: _Share[T]) -> T:
        entry = (share.minor or share.major).pop()
        # It stays in `_order`, which is not searched, until its turn comes. Their number is bounded
        # by that of the items, because each makes room for another one.
        entry.dropped = True
        self._account(entry, share)
        return entry.item

    def _account(self, entry: _Entry[T], share: _Share[T]) -> None:
        share.size -= entry.size
        self.size -= entry.size
        if not (share.minor or share.major):
            del self._shares[entry.owner]


class _Entry(Generic[T]):
    __slots__ = ("dropped", "item", "minor", "owner", "size")

    def __init__(self, item: T, size: int, owner: str | None, minor: bool) -> None:
        self.item = item
        self.size = size
        self.owner = owner
        self.minor = minor
        self.dropped = False


class _Share(Generic[T]):
    __slots__ = ("major", "minor", "size")

    def __init__(self) -> None:
        self.minor: deque[_Entry[T]] = deque()
        self.major: deque[_Entry[T]] = deque()
        self.size = 0

    def of(self, minor: bool) -> deque[_Entry[T]]:
        return self.minor if minor else self.major
