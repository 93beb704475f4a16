"""Computes the checksums of files on threads of their own, and caches them.

A checksum is computed in pieces. Between two pieces users take turns, and so do the checksums of
one user: a client that requests many takes no more from others than an equal part. Requests of a
client that has left end with the current piece. A disk that does not answer is handled as for READs
(io_pools.py).

Only checksums of bytes that were read are given. A Hugging Face blob is named by its SHA-256, but a
client that asks wants to know whether the content still matches the name.
"""

from __future__ import annotations

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
from sftp_gateway.server.io_pools import THREADS, IoPools, Job, Pool
from sftp_gateway.server.sftp.operations import Operation
from sftp_gateway.vfs.files import OpenFile

#: The algorithms, as draft-ietf-secsh-filexfer-extensions-00 §3 and hashlib name them.
ALGORITHMS: Final = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")

#: Bytes that are hashed in one turn, and bytes that are read at once.
_PIECE: Final = 4 * 1024 * 1024
_READ: Final = 256 * 1024

#: Blocks in one response. It fits a packet of any client, and small blocks hold Python's global
#: lock for a few milliseconds at most.
MAX_BLOCKS: Final = 1024

#: Checksums of whole files in the cache; one takes 300 bytes.
_MAX_CACHED: Final = 16_384

#: Bytes of the smallest block (§3 of the draft).
_MIN_BLOCK_SIZE: Final = 256

#: Seconds since a file's last change before its checksum is cached: two changes within one tick of
#: the kernel's clock have the same time.
_MIN_AGE: Final = 2.0


class ChecksumResult(NamedTuple):
    """The checksums of all blocks, concatenated; `file` is closed again."""

    value: bytes
    file: OpenFile


#: Yields None after each piece but the last.
_Pieces: TypeAlias = Generator["ChecksumResult | None", None, None]


class _Key(NamedTuple):
    """Identifies a file's content, on a local file system."""

    algorithm: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(slots=True, eq=False, kw_only=True)
class ChecksumJob:
    """A requested checksum: of `length` bytes (0: all) from `offset` on.

    With a `block_size`, of each block of that many bytes. `operation` opens the file.
    """

    operation: Operation
    algorithm: str
    user: str
    offset: int = 0
    length: int = 0
    block_size: int = 0
    done: Callable[[ChecksumResult | Exception], None] = lambda result: None
    cancelled: bool = False
    #: Set once it has started.
    pieces: _Pieces | None = None
    #: By time.monotonic().
    started: float = field(default_factory=time.monotonic)

    def opened(self, result: ChecksumResult) -> FileHandle:
        """The file as a handle, for the log."""
        share, path = self.operation.share, self.operation.path
        if share is None or path is None:
            raise AssertionError("only a share has files")
        return FileHandle(
            file=result.file,
            share=share,
            path=path,
            opened=self.started,
            known_size=result.file.size,
        )

    @property
    def share(self) -> str:
        """The name of the file's share."""
        if self.operation.share is None:
            raise AssertionError("only a share has files")
        return self.operation.share.name


class Checksums:
    """Computes the checksums that the clients of this process request."""

    def __init__(self, pools: IoPools, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns the file systems' time, in seconds since 1970."""
        self._pools = pools
        self._clock = clock
        #: By share and user. The first user is next.
        self._waiting: dict[str, OrderedDict[str, dict[ChecksumJob, None]]] = {}
        self._running: Counter[str] = Counter()
        self._cache_entries: OrderedDict[_Key, bytes] = OrderedDict()
        self._lock = Lock()

    def start(self, job: ChecksumJob) -> None:
        """Compute `job`, and call its `done` on the event loop."""
        users = self._waiting.setdefault(job.share, OrderedDict())
        users.setdefault(job.user, {})[job] = None
        self._start_next(job.share)

    def cancel(self, job: ChecksumJob) -> None:
        """Drop `job`; its `done` is not called."""
        job.cancelled = True
        users = self._waiting[job.share]
        jobs = users.get(job.user, {})
        if job in jobs:
            del jobs[job]
            if not jobs:
                del users[job.user]
            self._close_file(job)

    def _start_next(self, share: str) -> None:
        users = self._waiting[share]
        while users and self._running[share] < THREADS[Pool.CHECKSUM]:
            user, jobs = users.popitem(last=False)
            job = next(iter(jobs))
            del jobs[job]
            if jobs:
                users[user] = jobs  # after the others
            self._submit(job)

    def _submit(self, job: ChecksumJob) -> None:
        self._running[job.share] += 1
        if job.pieces is None:
            job.pieces = self._compute(job)
        self._pools.submit(
            job.share,
            Pool.CHECKSUM,
            partial(next, job.pieces),
            lambda piece: self._piece_done(job, piece),
            on_late_result=lambda _: self._close_file(job),
        )

    def _piece_done(self, job: ChecksumJob, piece: Job[ChecksumResult | None]) -> None:
        self._running[job.share] -= 1
        error = piece.error
        result = None if error is not None else piece.result()
        if job.cancelled:
            if not isinstance(error, TimeoutError):
                self._close_file(job)
        elif error is not None:
            job.done(error)
        elif result is not None:
            job.done(result)
        else:
            self.start(job)
        self._start_next(job.share)

    def _close_file(self, job: ChecksumJob) -> None:
        """Have a thread close the file, if it is open."""
        if job.pieces is not None:
            self._pools.close_later(job.share, job.pieces.close)

    # On threads

    def _compute(self, job: ChecksumJob) -> _Pieces:
        file: OpenFile = job.operation.run(wait=True)
        try:
            value = yield from self._value(job, file)
        finally:
            job.operation.discard(file)
        yield ChecksumResult(value, file)

    def _value(self, job: ChecksumJob, file: OpenFile) -> Generator[None, None, bytes]:
        before = file.stat()
        key = _key(job.algorithm, before)
        cacheable = file.local and not (job.offset or job.length or job.block_size)
        cached = self._cached(key) if cacheable else None
        if cached is not None:
            return cached
        value = yield from _hash(job, file, before.st_size)
        settled = before.st_ctime + _MIN_AGE < self._clock()
        if cacheable and settled and _key(job.algorithm, file.stat()) == key:
            self._cache(key, value)
        return value

    def _cached(self, key: _Key) -> bytes | None:
        with self._lock:
            value = self._cache_entries.get(key)
            if value is not None:
                self._cache_entries.move_to_end(key)
            return value

    def _cache(self, key: _Key, value: bytes) -> None:
        with self._lock:
            self._cache_entries[key] = value
            if len(self._cache_entries) > _MAX_CACHED:
                self._cache_entries.popitem(last=False)


def _key(algorithm: str, status: os.stat_result) -> _Key:
    return _Key(
        algorithm,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _hash(job: ChecksumJob, file: OpenFile, size: int) -> Generator[None, None, bytes]:
    """Compute the checksums of all blocks; yields after each piece.

    Raises FileSystemError for too small or too many blocks, and if the file has become shorter.
    """
    position = min(job.offset, size)
    end = min(position + job.length, size) if job.length else size
    block = job.block_size or max(end - position, 1)
    if job.block_size and (block < _MIN_BLOCK_SIZE or end - position > block * MAX_BLOCKS):
        raise FileSystemError("blocks that are too small")
    values, left = b"", _PIECE
    memory: memoryview | None = None
    while True:
        hasher = hashlib.new(job.algorithm, usedforsecurity=False)
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
                memory = None  # the next turn may be far away
                yield None
                left = _PIECE
        values += hasher.digest()
        if position >= end:
            return values
