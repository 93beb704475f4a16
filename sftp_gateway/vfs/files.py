"""Open files and directories."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from sftp_gateway.errors import InvalidHandle
from sftp_gateway.vfs.attributes import Attributes
from sftp_gateway.vfs.blocking import would_block

_OFFSET_MAX: Final = (1 << 63) - 1
_NOWAIT: Final = os.RWF_NOWAIT

#: A file is taken to be read sequentially after _MISSES page cache misses in a row, each within
#: _STRIDE bytes of the one before. (Clients' READs overtake each other; others hit the read-ahead.)
_MISSES: Final = 4
_STRIDE: Final = 1024 * 1024
_ENCODING: Final = sys.getfilesystemencoding()


class OpenFile:
    """A regular file that is open for reading.

    Thread-safe. The descriptor is closed after `close` and the end of the last read in progress, so
    that its number cannot be reused for another file during a read.
    """

    __slots__ = (
        "_closed",
        "_descriptor",
        "_last_miss",
        "_lock",
        "_misses",
        "_nowait",
        "_on_close",
        "_readers",
        "local",
        "size",
    )

    def __init__(
        self,
        *,
        descriptor: int,
        size: int,
        local: bool,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """`size` is in bytes, at the time of opening. `local`: whether fstat(2) never blocks.

        The thread that closes the descriptor calls `on_close` afterwards.
        """
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._readers = 0
        self._closed = False
        self._on_close = on_close
        self._nowait = True
        self._misses = 0
        self._last_miss = 0
        self.size = size
        self.local = local

    def read(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Fill `buffers` from `offset` on; return the number of bytes read.

        It is short only at the end of the file, because sshfs takes a short read for that. Raises
        OSError as preadv(2) does, and InvalidHandle if the file has been closed.
        """
        descriptor = self._acquire()
        try:
            return self._fill(descriptor, buffers, offset, 0)
        finally:
            self._release()

    def read_bytes(self, offset: int, length: int) -> memoryview:
        """As `read`, into a new buffer."""
        buffer = memoryview(bytearray(length))
        return buffer[: self.read([buffer], offset)]

    def read_cached(self, buffers: Sequence[memoryview], offset: int) -> int:
        """As `read`, but raises BlockingIOError unless the page cache has all of it.

        Must be called on the thread that calls `close`: it does not take the lock.
        """
        if self._closed:
            raise InvalidHandle("the file is closed")
        if not self._nowait:
            raise would_block()
        try:
            return self._fill(self._descriptor, buffers, offset, _NOWAIT)
        except BlockingIOError:
            self._note_miss(offset)
            raise
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self._nowait = False  # FUSE, NFS: the file system cannot tell
                raise would_block() from None
            raise

    def _note_miss(self, offset: int) -> None:
        """Double the kernel's read-ahead for a file that is read sequentially."""
        near = abs(offset - self._last_miss) <= _STRIDE
        self._misses = self._misses + 1 if near else 0
        self._last_miss = offset
        if self._misses == _MISSES:
            # This only sets a field of the open file, and does not block.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    @staticmethod
    def _fill(descriptor: int, buffers: Sequence[memoryview], offset: int, flags: int) -> int:
        wanted = sum(map(len, buffers))
        if offset + wanted > _OFFSET_MAX:  # preadv would refuse: no file goes beyond
            wanted = max(0, _OFFSET_MAX - offset)
            offset, buffers = min(offset, _OFFSET_MAX), _slice(buffers, 0, wanted)
        done = 0
        while done < wanted:
            left = _slice(buffers, done, wanted) if done else buffers
            count = os.preadv(descriptor, left, offset + done, flags)
            if count == 0:
                if flags and os.fstat(descriptor).st_size > offset + done:
                    # Some file systems answer RWF_NOWAIT with nothing instead of EAGAIN.
                    raise would_block()
                break
            done += count
        return done

    def stat(self) -> os.stat_result:
        """fstat(2); raises OSError, InvalidHandle."""
        descriptor = self._acquire()
        try:
            return os.fstat(descriptor)
        finally:
            self._release()

    def statvfs(self) -> os.statvfs_result:
        """fstatvfs(3) of the file's file system. Raises OSError and InvalidHandle."""
        descriptor = self._acquire()
        try:
            return os.fstatvfs(descriptor)
        finally:
            self._release()

    def close(self) -> None:
        """Close the file after the reads in progress. Never blocks."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            last = self._readers == 0
        if last:
            self._close()

    def _close(self) -> None:
        try:
            os.close(self._descriptor)
        finally:  # on FUSE and NFS, close(2) may fail, but the descriptor is closed
            self._on_close()

    def _acquire(self) -> int:
        with self._lock:
            if self._closed:
                raise InvalidHandle("the file is closed")
            self._readers += 1
            return self._descriptor

    def _release(self) -> None:
        with self._lock:
            self._readers -= 1
            last = self._closed and self._readers == 0
        if last:
            self._close()


def _slice(buffers: Iterable[memoryview], start: int, stop: int) -> Sequence[memoryview]:
    """`buffers[start:stop]`, as if they were one buffer."""
    left = []
    for buffer in buffers:
        piece = buffer[max(0, start) : max(0, stop)]
        if piece:
            left.append(piece)
        start, stop = start - len(buffer), stop - len(buffer)
    return left


class Entry(NamedTuple):
    """A name in a directory, with its shown attributes."""

    name: bytes
    attributes: Attributes


class OpenDirectory:
    """A directory that is open for listing; reads entries on demand.

    Used by one thread at a time, since the server answers READDIR requests in order; `close` may be
    called from another thread.

    It costs little before it is listed, because a client may open thousands of directories: few
    objects, since the garbage collector visits each, and no buffer (32 KiB in glibc).
    """

    __slots__ = (
        "_ahead",
        "_closed",
        "_descriptor",
        "_hidden",
        "_listing",
        "_lock",
        "_on_close",
        "_scan",
        "_show",
        "buffered",
        "status",
    )

    def __init__(
        self,
        *,
        first: Iterable[Entry],
        descriptor: int | None = None,
        show: Callable[[os.DirEntry[str]], Attributes | None] = lambda _: None,
        hidden: frozenset[bytes] = frozenset(),
        on_close: Callable[[], None] = lambda: None,
        status: os.stat_result | None = None,
    ) -> None:
        """Lists `first`, then the directory's entries that `show` shows and that are not `hidden`.

        `descriptor` and `status` are the directory's own; None for a virtual directory. `on_close`
        is called after the descriptor is closed.
        """
        self.status = status
        #: Whether the remaining entries need no disk access.
        self.buffered = descriptor is None
        #: What comes before the rest of the scan.
        self._ahead = list(first)
        self._descriptor = descriptor
        self._scan: os._ScandirIterator[str] | None = None
        self._show = show
        self._hidden = hidden
        self._on_close = on_close
        self._lock = threading.Lock()
        self._listing = False
        self._closed = False

    def take_while(self, accept: Callable[[bytes, Attributes], bool]) -> None:
        """Pass names and attributes to `accept` until it returns false; that one stays the next.

        Raises OSError as readdir(3) does, and InvalidHandle if the directory has been closed.
        """
        with self._lock:
            if self._closed:
                raise InvalidHandle("the folder is closed")
            self._listing = True
        try:
            if self._scan is None and not self.buffered:
                self._scan = os.scandir(self._descriptor)
            ahead = self._ahead
            while ahead:
                if not accept(*ahead[0]):
                    return
                del ahead[0]
            for found in self._scan or ():
                name = found.name.encode(_ENCODING, "surrogateescape")  # os.fsencode, in one call
                if name in self._hidden:
                    continue
                attributes = self._show(found)
                if attributes is not None and not accept(name, attributes):
                    ahead.append(Entry(name, attributes))
                    return
            self.buffered = True
            self._scan = None  # a scan at its end has freed its buffer
        finally:
            with self._lock:
                self._listing = False
                last = self._closed
            if last:
                self._let_go()

    def close(self) -> None:
        """Close the directory after a `take_while` in progress. Never blocks."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            last = not self._listing
        if last:
            self._let_go()

    def _let_go(self) -> None:
        if self._scan is not None:
            self._scan.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._on_close()
