"""The open files and directories of a session, and what was served of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Final, TypeVar

from sftp_gateway.errors import InvalidHandle
from sftp_gateway.protocol.requests import ReaddirRequest
from sftp_gateway.server.limits.quotas import Cost, HandleOwner, Quotas
from sftp_gateway.vfs.files import OpenDirectory, OpenFile
from sftp_gateway.vfs.share import Share

T = TypeVar("T")

_HANDLE: Final = Struct(">I")

#: Ranges that are remembered of a file read out of order, to tell whether it was read whole.
#: Adjacent reads make one range, so parallel and backward readers need one or two. Beyond this
#: bound, a random reader's file does not count as read whole.
MAX_RANGES: Final = 256


class _Ranges:
    """Byte ranges that were served, sorted and disjoint."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add a range, merged with those that it touches; dropped if there are too many."""
        first = bisect_left(self._ends, start)
        behind = bisect_right(self._starts, end)
        if first < behind:
            start = min(start, self._starts[first])
            end = max(end, self._ends[behind - 1])
        elif len(self._starts) == MAX_RANGES:
            return
        self._starts[first:behind] = [start]
        self._ends[first:behind] = [end]

    def reach(self, start: int) -> int:
        """Return how far `start` can advance without a gap; forget the ranges up to there."""
        behind = bisect_right(self._starts, start)
        if not behind:
            return start
        end = max(start, self._ends[behind - 1])
        del self._starts[:behind], self._ends[:behind]
        return end

    @property
    def end(self) -> int:
        """The end of the last range; 0 if there is none."""
        return self._ends[-1] if self._ends else 0


@dataclass(slots=True, kw_only=True, eq=False)
class FileHandle:
    """An open file, and what was served of it."""

    file: OpenFile
    share: Share
    path: bytes
    opened: float
    #: The size that the client was last told by this handle.
    known_size: int
    #: Whether READs of it are answered in the order in which they came.
    in_order: bool = False
    reads: int = 0
    served: int = 0
    #: READs that run or wait for a thread. The file is closed after the last of them.
    pending: int = 0
    #: Every byte before this was served.
    _contiguous: int = 0
    _ahead: _Ranges | None = None

    @property
    def in_use(self) -> bool:
        """Whether a request on it is unanswered."""
        return self.pending > 0

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def record_read(self, offset: int, length: int) -> None:
        """Account for `length` bytes served from `offset` on."""
        self.reads += 1
        self.served += length
        end = offset + length
        if offset > self._contiguous:
            if self._ahead is None:
                self._ahead = _Ranges()
            self._ahead.add(offset, end)
        elif end > self._contiguous:
            self._contiguous = end if self._ahead is None else self._ahead.reach(end)

    def is_truncated_at(self, end: int) -> bool:
        """Whether a client that reads sequentially would miss bytes if the file ended here.

        A file may also shrink and be read again from its start, as `tail -f` does.
        """
        if end >= self.known_size:
            return False
        return end >= max(self._contiguous, self._ahead.end if self._ahead else 0)

    @property
    def whole(self) -> bool:
        """Whether every byte that the file had when it was opened was served."""
        return self._contiguous >= self.file.size


@dataclass(slots=True, kw_only=True, eq=False)
class DirectoryHandle:
    """An open directory. READDIRs wait in `queue` while one is in progress: answers are ordered."""

    directory: OpenDirectory
    share: Share | None
    path: bytes
    opened: float
    entries: int = 0
    complete: bool = False
    #: Whether a READDIR is in progress.
    in_use: bool = False
    #: A page of names was lost to a disk error; further listings would be incomplete.
    broken: bool = False
    queue: deque[ReaddirRequest] = field(default_factory=deque)

    def mark_broken(self) -> None:
        """Fail all further READDIRs, because names were lost."""
        self.broken = True

    def close(self) -> None:
        """Close the directory."""
        self.directory.close()


class HandleTable:
    """The handles of one session, which are not valid in any other."""

    def __init__(self, *, quotas: Quotas, owner: HandleOwner) -> None:
        """`owner` is the session's connection."""
        self.capacity = quotas.max_files
        self._quotas = quotas
        self._owner = owner
        self._open: dict[bytes, FileHandle | DirectoryHandle] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._open)

    def files(self) -> Iterator[FileHandle]:
        """The open files, in the order in which they were opened."""
        return (opened for opened in self._open.values() if isinstance(opened, FileHandle))

    def open(self, cost: Cost, opener: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call `opener`, which opens something; its `on_close` has to be called once it is closed.

        Thread-safe. Raises TooManyHandles.
        """
        release = self._quotas.acquire(self._owner, cost)
        try:
            return opener(*args, on_close=release, **kwargs)
        except BaseException:
            release()
            raise

    def add(self, opened: FileHandle | DirectoryHandle) -> bytes:
        """Add an open file or directory; return its handle of four bytes, not reused soon."""
        while (handle := _HANDLE.pack(self._next)) in self._open:
            self._next = (self._next + 1) & 0xFFFFFFFF
        self._next = (self._next + 1) & 0xFFFFFFFF
        self._open[handle] = opened
        return handle

    def file(self, handle: bytes) -> FileHandle:
        """The open file of `handle`; raises InvalidHandle."""
        opened = self._open.get(handle)
        if not isinstance(opened, FileHandle):
            raise InvalidHandle("not an open file")
        return opened

    def directory(self, handle: bytes) -> DirectoryHandle:
        """The open directory of `handle`; raises InvalidHandle."""
        opened = self._open.get(handle)
        if not isinstance(opened, DirectoryHandle):
            raise InvalidHandle("not an open directory")
        return opened

    def get(self, handle: bytes) -> FileHandle | DirectoryHandle:
        """The file or directory of `handle`; raises InvalidHandle."""
        try:
            return self._open[handle]
        except KeyError:
            raise InvalidHandle("not open") from None

    def remove(self, handle: bytes) -> FileHandle | DirectoryHandle:
        """Remove `handle`; raises InvalidHandle."""
        opened = self.get(handle)
        del self._open[handle]
        return opened

    def pop(self) -> FileHandle | DirectoryHandle:
        """Remove the one that was added last."""
        return self._open.popitem()[1]
