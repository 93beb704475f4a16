"""Shares out a worker's descriptors, and memory for what is open, among users and connections.

Theory of operation. An OPEN or OPENDIR takes its part of each `Quota` before it takes a descriptor,
and gives it back when the descriptor is closed, which may be long after the client's CLOSE where a
disk hangs. So whatever is opened, wherever it is at the moment, is counted.

A quota sets a third aside: each connection may always hold its part of that. The rest is shared
with dynamic thresholds (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory
Packet Switches", 1998): a user may hold three quarters of what other users leave, and a connection
three quarters of what other connections leave to its user. One that takes all it can still leaves
a quarter to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final, NamedTuple, TypeVar

from sftp_gateway.errors import TooManyHandles

Key = TypeVar("Key")

#: Bytes of memory for all that is open in one process.
MEMORY: Final = 384 * 1024 * 1024

#: Bytes of an open file, besides its path (0.75 KiB were measured), and of an open folder: glibc
#: reads names ahead into 32 KiB.
_FILE: Final = 768
_FOLDER: Final = 34 * 1024

#: Descriptors that a worker holds for itself (22 were counted), and while it takes connections.
_RESERVED: Final = 40


@dataclass(frozen=True, slots=True)
class DescriptorAllotment:
    """How the descriptors of a worker are divided between connections and what they open."""

    connections: int
    handles: int


def divide(limit: int, *, connections: int, temporary: int) -> DescriptorAllotment:
    """Divide `limit` descriptors.

    `connections` are wanted, and `temporary` descriptors may be in use while requests are served.
    Where there are too few, those and the worker's own get half, and connections a third of what
    is left.
    """
    left = limit - min(_RESERVED + temporary, limit // 2)
    connections = min(connections, left // 3)
    return DescriptorAllotment(connections, left - connections)


class HandleOwner(NamedTuple):
    """A connection, and the user who has logged in on it."""

    user: str
    connection: str


class Cost(NamedTuple):
    """What an open file or folder takes."""

    descriptors: int
    memory: int


def cost_of_file(path: bytes) -> Cost:
    """What an open file takes."""
    return Cost(1, _FILE + len(path))


def cost_of_folder(path: bytes) -> Cost:
    """What an open folder takes; os.scandir holds a descriptor of its own."""
    return Cost(2, _FOLDER + len(path))


class Quota:
    """One resource, in whatever unit."""

    def __init__(self, reason: str, *, capacity: int, connections: int) -> None:
        """`reason` is that of a TooManyHandles; up to `connections` are there at once."""
        self._reason = reason
        self._capacity = capacity
        #: What each connection may always hold.
        self.guaranteed = max(1, capacity // 3 // connections)
        self._free = capacity - connections * self.guaranteed
        self._held: Counter[HandleOwner] = Counter()
        self._total = 0
        #: What users hold of the shared part.
        self._shared: Counter[str] = Counter()

    def check(self, owner: HandleOwner, amount: int) -> None:
        """Raise TooManyHandles where `owner` may not have `amount` more."""
        held, limit = self._held[owner], self.limit(owner)
        if held + amount > limit:
            raise TooManyHandles(self._reason, used=held, limit=limit)

    def limit(self, owner: HandleOwner) -> int:
        """What `owner` may have, as things are."""
        beyond = self._above_guarantee(self._held[owner])
        of_user = self._shared[owner.user]
        left_to_user = (self._free + of_user) * 3 // 4 - of_user
        shared = max(0, left_to_user + beyond) * 3 // 4
        # Connections that are gone may hold descriptors which a disk keeps from being closed.
        left = self._capacity - self._total
        return min(self.guaranteed + shared, self._held[owner] + left)

    def add(self, owner: HandleOwner, amount: int) -> None:
        """`owner` has `amount` more, or less where it is negative."""
        held = self._held[owner]
        shared = self._above_guarantee(held + amount) - self._above_guarantee(held)
        _add(self._held, owner, amount)
        _add(self._shared, owner.user, shared)
        self._free -= shared
        self._total += amount

    def _above_guarantee(self, held: int) -> int:
        return max(0, held - self.guaranteed)


class Quotas:
    """The quotas of one worker; safe to use from several threads."""

    def __init__(
        self, division: DescriptorAllotment, *, max_handles: int, memory: int = MEMORY
    ) -> None:
        """`max_handles` is for each connection; `memory` in bytes."""
        connections = max(1, division.connections)
        self._max_handles = max_handles
        self._handles: Counter[HandleOwner] = Counter()
        self._descriptors = Quota(
            "descriptor_quota", capacity=division.handles, connections=connections
        )
        self._memory = Quota("memory_quota", capacity=memory, connections=connections)
        self._lock = Lock()
        #: Files that a connection may have open while there is no other.
        self.max_files = min(max_handles, self._descriptors.limit(HandleOwner("", "")))

    def acquire(self, owner: HandleOwner, cost: Cost) -> Callable[[], None]:
        """Take what a handle costs; return what gives it back, to be called once.

        Raises TooManyHandles where that is more than `owner` may have.
        """
        with self._lock:
            held = self._handles[owner]
            if held >= self._max_handles:
                raise TooManyHandles("too_many_handles", used=held, limit=self._max_handles)
            self._descriptors.check(owner, cost.descriptors)
            self._memory.check(owner, cost.memory)
            self._add(owner, 1, *cost)
        return _Reservation(self, owner, *cost)

    def release(self, owner: HandleOwner, descriptors: int, memory: int) -> None:
        """Undo a `take`."""
        with self._lock:
            self._add(owner, -1, -descriptors, -memory)

    def _add(self, owner: HandleOwner, handles: int, descriptors: int, memory: int) -> None:
        _add(self._handles, owner, handles)
        self._descriptors.add(owner, descriptors)
        self._memory.add(owner, memory)


class _Reservation:
    """What a handle has taken; called to give it back. It is small: each handle has one."""

    __slots__ = ("_descriptors", "_memory", "_owner", "_quotas")

    def __init__(self, quotas: Quotas, owner: HandleOwner, descriptors: int, memory: int) -> None:
        self._quotas = quotas
        self._owner = owner
        self._descriptors = descriptors
        self._memory = memory

    def __call__(self) -> None:
        self._quotas.release(self._owner, self._descriptors, self._memory)


def _add(counts: Counter[Key], key: Key, amount: int) -> None:
    """Add, and keep nothing of who has nothing."""
    counts[key] += amount
    if not counts[key]:
        del counts[key]
