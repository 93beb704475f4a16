"""Shares out a worker's descriptors, and the memory of open files, among users and connections.

An OPEN or OPENDIR acquires its part of each `Quota` before it takes a descriptor, and releases it
when the descriptor is closed. If a disk hangs, that may be long after the client's CLOSE.

A third of a quota is set aside: each connection is guaranteed an equal part of it. The rest has
dynamic thresholds (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
Switches", 1998): a user may hold three quarters of what other users leave, and a connection three
quarters of what the user's other connections leave. One that takes all it can still leaves a
quarter to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final, NamedTuple, TypeVar

from sftp_gateway.errors import TooManyHandles

Key = TypeVar("Key")

#: Bytes of memory for all open files and folders of a process.
MEMORY: Final = 384 * 1024 * 1024

#: Bytes of an open file (0.75 KiB measured) and of a folder that is being listed (glibc reads ahead
#: 32 KiB of names), besides their paths.
_FILE: Final = 768
_FOLDER: Final = 34 * 1024

#: Descriptors for the worker itself (22 counted) and for connections that are being accepted.
_RESERVED: Final = 40


@dataclass(frozen=True, slots=True)
class DescriptorAllotment:
    """The descriptors of a worker for connections, and for what they open."""

    connections: int
    handles: int


def divide(limit: int, *, connections: int, temporary: int) -> DescriptorAllotment:
    """Divide `limit` descriptors, of which requests use up to `temporary` while they are served.

    If there are too few for `connections`, the worker itself and `temporary` get at most a half,
    and connections a third of the rest.
    """
    left = limit - min(_RESERVED + temporary, limit // 2)
    connections = min(connections, left // 3)
    return DescriptorAllotment(connections, left - connections)


class HandleOwner(NamedTuple):
    """A connection and its user."""

    user: str
    connection: str


class Cost(NamedTuple):
    """What an open file or folder costs; `memory` in bytes."""

    descriptors: int
    memory: int


def cost_of_file(path: bytes) -> Cost:
    """What an open file costs."""
    return Cost(1, _FILE + len(path))


def cost_of_folder(path: bytes) -> Cost:
    """What an open folder costs while it is listed: os.scandir holds a second descriptor.

    All of it is acquired when the folder is opened, so that no listing fails for want of it.
    """
    return Cost(2, _FOLDER + len(path))


class Quota:
    """The quota of one resource."""

    def __init__(self, reason: str, *, capacity: int, connections: int) -> None:
        """`reason` is that of TooManyHandles; `connections` is the greatest number at once."""
        self._reason = reason
        self._capacity = capacity
        #: Guaranteed to each connection.
        self.guaranteed = max(1, capacity // 3 // connections)
        self._free = capacity - connections * self.guaranteed
        self._held: dict[HandleOwner, int] = {}
        self._total = 0
        #: Held of the shared part, by user.
        self._shared: dict[str, int] = {}

    def check(self, owner: HandleOwner, amount: int) -> None:
        """Raise TooManyHandles if `owner` may not hold `amount` more."""
        held, limit = self._held.get(owner, 0), self.limit(owner)
        if held + amount > limit:
            raise TooManyHandles(self._reason, used=held, limit=limit)

    def limit(self, owner: HandleOwner) -> int:
        """The amount that `owner` may hold now."""
        held = self._held.get(owner, 0)
        beyond = max(0, held - self.guaranteed)
        of_user = self._shared.get(owner.user, 0)
        left_to_user = (self._free + of_user) * 3 // 4 - of_user
        shared = max(0, left_to_user + beyond) * 3 // 4
        # Closed connections may still hold descriptors, if a disk hangs.
        left = self._capacity - self._total
        return min(self.guaranteed + shared, held + left)

    def add(self, owner: HandleOwner, amount: int) -> None:
        """Add `amount`, which may be negative, to what `owner` holds."""
        held = self._held.get(owner, 0)
        shared = max(self.guaranteed, held + amount) - max(self.guaranteed, held)
        _add(self._held, owner, amount)
        self._total += amount
        if shared:
            _add(self._shared, owner.user, shared)
            self._free -= shared


class Quotas:
    """The quotas of one worker. Thread-safe."""

    def __init__(
        self, division: DescriptorAllotment, *, max_handles: int, memory: int = MEMORY
    ) -> None:
        """`max_handles` limits each connection; `memory` is in bytes."""
        connections = max(1, division.connections)
        self._max_handles = max_handles
        self._handles: dict[HandleOwner, int] = {}
        self._descriptors = Quota(
            "descriptor_quota", capacity=division.handles, connections=connections
        )
        self._memory = Quota("memory_quota", capacity=memory, connections=connections)
        self._lock = Lock()
        #: Files that the only connection may have open.
        self.max_files = min(max_handles, self._descriptors.limit(HandleOwner("", "")))

    def acquire(self, owner: HandleOwner, cost: Cost) -> Callable[[], None]:
        """Acquire the cost of a handle; return a function that releases it, to be called once.

        Raises TooManyHandles if it is more than `owner` may hold.
        """
        with self._lock:
            held = self._handles.get(owner, 0)
            if held >= self._max_handles:
                raise TooManyHandles("too_many_handles", used=held, limit=self._max_handles)
            self._descriptors.check(owner, cost.descriptors)
            self._memory.check(owner, cost.memory)
            self._add(owner, 1, *cost)
        return _Reservation(self, owner, *cost)

    def release(self, owner: HandleOwner, descriptors: int, memory: int) -> None:
        """Undo `acquire`."""
        with self._lock:
            self._add(owner, -1, -descriptors, -memory)

    def _add(self, owner: HandleOwner, handles: int, descriptors: int, memory: int) -> None:
        _add(self._handles, owner, handles)
        self._descriptors.add(owner, descriptors)
        self._memory.add(owner, memory)


class _Reservation:
    """The cost of one handle; releases it when called. Small, because each handle has one."""

    __slots__ = ("_descriptors", "_memory", "_owner", "_quotas")

    def __init__(self, quotas: Quotas, owner: HandleOwner, descriptors: int, memory: int) -> None:
        self._quotas = quotas
        self._owner = owner
        self._descriptors = descriptors
        self._memory = memory

    def __call__(self) -> None:
        self._quotas.release(self._owner, self._descriptors, self._memory)


def _add(counts: dict[Key, int], key: Key, amount: int) -> None:
    """Add `amount`, and forget the key at zero."""
    count = counts.get(key, 0) + amount
    if count:
        counts[key] = count
    else:
        counts.pop(key, None)
