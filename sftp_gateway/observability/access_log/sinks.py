"""Where log lines are written: a stream that is already open, or a file that may be rotated."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final, Protocol

from sftp_gateway.errors import ConfigurationError

_LINE_FEED = 0x0A

_CLOSED: Final = -1
_NOT_REGULAR: Final = "it is not a regular file"

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Writes whole lines, several at a time; called from one thread only."""

    def write(self, lines: bytes) -> None:
        """Write all of `lines`, waiting as long as it takes. Raises OSError."""

    def close(self) -> None:
        """Close what the sink opened."""


class StreamSink:
    """Writes to a descriptor that is already open, such as standard output.

    Several worker processes may share the stream, and a pipe keeps only writes of up to PIPE_BUF
    bytes together (pipe(7)), so each batch is written under a record lock: lines of two processes
    never mix. The lock ends with the process, however it ends. Only pipes and sockets are locked:
    files keep each write together, and the likes of /dev/null strangers may hold locked.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        self._locked = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self._writer = _LineWriter()

    def __repr__(self) -> str:
        return f"descriptor {self._descriptor}"

    def write(self, lines: bytes) -> None:
        """Write all of `lines`; waits where nobody reads, also when the pipe is non-blocking.

        Raises OSError, for instance EPIPE when the reader is gone or ENOSPC when the disk is full.
        """
        with _record_lock(self._descriptor) if self._locked else nullcontext():
            self._writer.write(self._descriptor, lines)

    def close(self) -> None:
        """Leave the descriptor open: others opened it."""


class FileSink:
    """Appends to a file, made with mode 0640, and follows it through logrotate.

    O_APPEND keeps batches of several processes apart and lets `copytruncate` work. Before each
    batch the path is compared with the open file; when it was moved or deleted, it is made anew.
    Only regular files are opened: a fifo or a device may keep the writer waiting for ever.

    Where it cannot be opened, each batch tries again, and raises OSError; `check_file` tells at
    the start of the gateway.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._writer = _LineWriter()
        self._detached = (
            False  # the path cannot be opened; lines go to the file that was moved away
        )
        self._descriptor = _CLOSED
        with suppress(OSError):
            self._descriptor = _open(self._path)

    def __repr__(self) -> str:
        return str(self._path)

    def write(self, lines: bytes) -> None:
        """Append all of `lines` in one write. Raises OSError."""
        self._follow()
        self._writer.write(self._descriptor, lines)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor != _CLOSED:
            os.close(self._descriptor)
            self._descriptor = _CLOSED

    def _follow(self) -> None:
        if self._descriptor == _CLOSED:
            self._descriptor = _open(self._path)
            return
        ours = os.fstat(self._descriptor)
        with suppress(OSError):
            if os.path.samestat(os.stat(self._path), ours):
                self._detached = False
                return
        try:
            opened = _open(self._path)
        except OSError as error:
            # A line in the file that was moved away is not lost; one in a deleted file is.
            if not ours.st_nlink:
                raise
            if not self._detached:
                _log.error(
                    "the access log cannot be written to %s: %s; lines go to the file that was "
                    "moved away from there",
                    self._path,
                    error.strerror,
                )
            self._detached = True
            return
        self._detached = False
        os.close(self._descriptor)
        self._descriptor = opened
        self._writer = _LineWriter()


def check_file(path: Path) -> None:
    """Raises ConfigurationError when a FileSink could not open the file."""
    try:
        os.close(_open(path))
    except OSError as error:
        why = error.strerror
        if not path.parent.is_dir():
            why = f"the folder {path.parent} does not exist"
        elif path.exists() and not path.is_file():
            why = _NOT_REGULAR  # whatever the kernel calls that
        raise ConfigurationError(
            [
                f"access_log.file: cannot append to {path}: {why};"
                " name a file in a folder that the gateway may write to"
            ]
        ) from error


def _open(path: Path) -> int:
    # Without O_NONBLOCK, a fifo would be waited for until someone reads it.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags, 0o640)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, _NOT_REGULAR)
    return descriptor


class _LineWriter:
    """Writes until all is written, and ends a line that an error cut in two.

    After a full disk, the next batch begins with a line feed: one line is broken, not two.
    """

    def __init__(self) -> None:
        self._partial = False

    def write(self, descriptor: int, lines: bytes) -> None:
        data = b"\n" + lines if self._partial else lines
        written = 0
        try:
            while written < len(data):
                try:
                    written += os.write(descriptor, data[written:])
                except BlockingIOError:
                    _wait_for_room(descriptor)
        finally:
            if written:
                self._partial = data[written - 1] != _LINE_FEED


def _wait_for_room(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


@contextmanager
def _record_lock(descriptor: int) -> Iterator[None]:
    # A stream that cannot be locked is written all the same.
    with suppress(OSError):
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
