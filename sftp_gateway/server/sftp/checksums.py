"""Checksums of files, computed on threads of their own and remembered.

A checksum is computed in pieces, and between two of them others have their turn: users by turns,
and each user's checksums by turns. So a client that asks for many takes no more from another than
an equal part, threads are not kept for long, and a client that has left is dropped behind the piece
that is under way. A disk that does not answer is given up as any read is (io_pools.py).

Nothing is vouched for that was not read. A blob of a Hugging Face cache is named by its SHA-256,
but a client that asks wants to know whether the bytes still are what the name says.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Final, NamedTuple, TypeAlias

from sftp_gateway.errors import FileSystemError
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.io_pools import THREADS, IoPools, Pool, error_of
from sftp_gateway.server.sftp.dispatch import Operation
from sftp_gateway.vfs.files import OpenFile

#: The algorithms, as draft-ietf-secsh-filexfer-extensions-00 §3 and hashlib name them.
ALGORITHMS: Final = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")

#: Bytes that are hashed before others have their turn, and bytes that are read at once.
_PIECE: Final = 4 * 1024 * 1024
_READ: Final = 256 * 1024

#: Blocks of a file with a checksum each in one answer: they fit a packet of any client, and small
#: ones keep Python's global lock for some milliseconds at most.
MAX_BLOCKS: Final = 1024

#: Whole files whose checksums are remembered; one takes 300 bytes.
_REMEMBERED: Final = 16_384

#: Bytes of the smallest block (§3 of the draft).
_LEAST_BLOCK: Final = 256

#: Seconds for which a file must have been left alone before its checksum is remembered. A change
#: within the same tick of the kernel's clock would not show in its times.
_SETTLED: Final = 2.0


class Digest(NamedTuple):
    """A checksum that was computed: of each block, one behind the other; `file` is closed again."""

    value: bytes
    file: OpenFile


#: Gives None behind each piece that is not the last.
_Pieces: TypeAlias = Generator["Digest | None", None, None]


class _Key(NamedTuple):
    """What a file and its content are known by, on a local file system."""

    algorithm: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(slots=True, eq=False, kw_only=True)
class Check:
    """A checksum that is being computed: of `length` bytes from `offset` on, 0 for all there are.

    With a `block_size`, of each block of so many bytes. `operation` gives the open file.
    """

    operation: Operation
    algorithm: str
    user: str
    offset: int = 0
    length: int = 0
    block_size: int = 0
    done: Callable[[Digest | Exception], None] = lambda digest: None
    cancelled: bool = False
    #: Once it has begun.
    pieces: _Pieces | None = None
    #: By time.monotonic().
    started: float = field(default_factory=time.monotonic)

    def opened(self, digest: Digest) -> FileHandle:
        """The file as it was open, for the log."""
        share, path = self.operation.share, self.operation.path
        if share is None or path is None:
            raise AssertionError("only a share has files")
        return FileHandle(
            file=digest.file,
            share=share,
            path=path,
            opened=self.started,
            known_size=digest.file.size,
        )

    @property
    def share(self) -> str:
        """The share that the file is in."""
        if self.operation.share is None:
            raise AssertionError("only a share has files")
        return self.operation.share.name


class Checksums:
    """The checksums that the clients of this process ask for."""

    def __init__(self, pools: IoPools, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` is that of the file systems, in seconds since 1970."""
        self._pools = pools
        self._clock = clock
        #: By share and user; whose turn it is comes first.
        self._waiting: dict[str, OrderedDict[str, dict[Check, None]]] = {}
        self._running: Counter[str] = Counter()
        self._remembered: OrderedDict[_Key, bytes] = OrderedDict()
        self._lock = Lock()

    def start(self, check: Check) -> None:
        """Compute `check`, and call its `done` on the event loop."""
        users = self._waiting.setdefault(check.share, OrderedDict())
        users.setdefault(check.user, {})[check] = None
        self._start_next(check.share)

    def cancel(self, check: Check) -> None:
        """Nobody wants `check` any more: its `done` is not called."""
        check.cancelled = True
        users = self._waiting[check.share]
        checks = users.get(check.user, {})
        if check in checks:
            del checks[check]
            if not checks:
                del users[check.user]
            self._let_go(check)

    def _start_next(self, share: str) -> None:
        users = self._waiting[share]
        while users and self._running[share] < THREADS[Pool.CHECKSUM]:
            user, checks = users.popitem(last=False)
            check = next(iter(checks))
            del checks[check]
            if checks:
                users[user] = checks  # behind the others
            self._submit(check)

    def _submit(self, check: Check) -> None:
        self._running[check.share] += 1
        if check.pieces is None:
            check.pieces = self._compute(check)
        self._pools.submit(
            check.share,
            Pool.CHECKSUM,
            partial(next, check.pieces),
            lambda future: self._advanced(check, future),
            on_late_result=lambda _: self._let_go(check),
        )

    def _advanced(self, check: Check, future: asyncio.Future[Digest | None]) -> None:
        self._running[check.share] -= 1
        error = error_of(future)
        digest = None if error is not None else future.result()
        if check.cancelled:
            if not isinstance(error, TimeoutError):
                self._let_go(check)
        elif error is not None:
            check.done(error)
        elif digest is not None:
            check.done(digest)
        else:
            self.start(check)
        self._start_next(check.share)

    def _let_go(self, check: Check) -> None:
        """Have a thread close the file, where it is open."""
        if check.pieces is not None:
            self._pools.close_later(check.share, check.pieces.close)

    # On threads

    def _compute(self, check: Check) -> _Pieces:
        file: OpenFile = check.operation.run(wait=True)
        try:
            value = yield from self._value(check, file)
        finally:
            check.operation.discard(file)
        yield Digest(value, file)

    def _value(self, check: Check, file: OpenFile) -> Generator[None, None, bytes]:
        before = file.stat()
        key = _key(check.algorithm, before)
        lasting = file.local and not (check.offset or check.length or check.block_size)
        known = self._recall(key) if lasting else None
        if known is not None:
            return known
        value = yield from _hash(check, file, before.st_size)
        settled = before.st_ctime + _SETTLED < self._clock()
        if lasting and settled and _key(check.algorithm, file.stat()) == key:
            self._remember(key, value)
        return value

    def _recall(self, key: _Key) -> bytes | None:
        with self._lock:
            value = self._remembered.get(key)
            if value is not None:
                self._remembered.move_to_end(key)
            return value

    def _remember(self, key: _Key, value: bytes) -> None:
        with self._lock:
            self._remembered[key] = value
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)


def _key(algorithm: str, status: os.stat_result) -> _Key:
    return _Key(
        algorithm,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _hash(check: Check, file: OpenFile, size: int) -> Generator[None, None, bytes]:
    """The checksums of all blocks; suspended behind each piece.

    Raises FileSystemError for too many blocks, and where the file has become shorter.
    """
    position = min(check.offset, size)
    end = min(position + check.length, size) if check.length else size
    block = check.block_size or max(end - position, 1)
    if check.block_size and (block < _LEAST_BLOCK or end - position > block * MAX_BLOCKS):
        raise FileSystemError("blocks that are too small")
    values, left = b"", _PIECE
    memory: memoryview | None = None
    while True:
        hasher = hashlib.new(check.algorithm, usedforsecurity=False)
        stop = min(position + block, end)
        while position < stop:
            if memory is None:
                memory = memoryview(bytearray(min(_READ, end - position)))
            count = min(len(memory), stop - position)
            if file.read([memory[:count]], position) < count:
                raise FileSystemError("the file has become shorter")
            hasher.update(memory[:count])
            position += count
            left -= count
            if left <= 0:
                memory = None  # it may be long until the next turn
                yield None
                left = _PIECE
        values += hasher.digest()
        if position >= end:
            return values
