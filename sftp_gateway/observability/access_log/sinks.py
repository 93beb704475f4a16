"""The outputs of the access log: an open stream, or a file that may be rotated."""

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
    """Writes batches of whole lines; called from one thread only."""

    def write(self, lines: bytes) -> None:
        """Write all of `lines`; may block. Raises OSError."""

    def close(self) -> None:
        """Close the file, if the sink has opened it."""


class StreamSink:
    """Writes to an open descriptor, such as standard output.

    Several processes may share the stream, and writes to a pipe are atomic only up to PIPE_BUF
    bytes (pipe(7)), so each batch is written under a record lock, which the kernel releases if the
    process dies. Only pipes and sockets are locked: O_APPEND writes to files are atomic, and other
    programs may hold a lock on devices such as /dev/null.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        self._locked = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self._writer = _LineWriter()

    def __repr__(self) -> str:
        return f"descriptor {self._descriptor}"

    def write(self, lines: bytes) -> None:
        """Write all of `lines`; blocks while the pipe is full, even if it is non-blocking.

        Raises OSError, for instance EPIPE without a reader or ENOSPC on a full disk.
        """
        with _record_lock(self._descriptor) if self._locked else nullcontext():
            self._writer.write(self._descriptor, lines)

    def close(self) -> None:
        """Do nothing: the sink has not opened the descriptor."""


class FileSink:
    """Appends to a file, created with mode 0640, and supports logrotate.

    O_APPEND makes batches of several processes atomic and allows `copytruncate`. Before each batch
    the sink checks whether the file has been moved or deleted, and if so creates a new one. It
    opens only regular files: a fifo or a device could block the writer for ever.

    If the file cannot be opened, each batch retries and raises OSError; `check_file` reports it at
    the start of the gateway.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._writer = _LineWriter()
        #: Whether lines go to the file that was moved away, because no new one can be opened.
        self._detached = False
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
            # Lines in a moved file are not lost; lines in a deleted one are.
            if not ours.st_nlink:
                raise
            if not self._detached:
                _log.error(
                    "cannot write the access log to %s: %s; lines go to the file that was moved "
                    "away",
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
    """Raises ConfigurationError if a FileSink could not open the file."""
    try:
        os.close(_open(path))
    except OSError as error:
        why = error.strerror
        if not path.parent.is_dir():
            why = f"the folder {path.parent} does not exist"
        elif path.exists() and not path.is_file():
            why = _NOT_REGULAR  # clearer than the errno, such as ENXIO
        raise ConfigurationError(
            [
                f"access_log.file: cannot append to {path}: {why};"
                " name a file in a folder that the gateway can write to"
            ]
        ) from error


def _open(path: Path) -> int:
    # Without O_NONBLOCK, opening a fifo would block until it has a reader.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags, 0o640)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, _NOT_REGULAR)
    return descriptor


class _LineWriter:
    """Writes all bytes, and terminates a line that an error has truncated.

    After a partial write, the next batch begins with a line feed, so that only one line is broken.
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
    # If the stream cannot be locked, write without the lock.
    with suppress(OSError):
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
