"""The source side of the scp protocol: `scp -f`, for `scp -O` and OpenSSH before 9.0.

A file is sent as `C0644 SIZE NAME`, its bytes and a zero byte; the client replies to the line and
to the bytes. A folder is `D0755 0 NAME`, its entries, and `E`. With times, `T` precedes either. An
error may replace any of these lines.

The protocol has no place for an error within the bytes of a file. If they cannot all be read, the
command ends with a message on standard error: the client fails and leaves a short file. (OpenSSH
pads the file with zeros and continues. The result has the right size and looks intact.)
"""

from __future__ import annotations

import stat
from typing import Final

from sftp_gateway.errors import Denied, FileSystemError, IsADirectory
from sftp_gateway.server.exec.command_line import ScpSink, ScpSource
from sftp_gateway.server.exec.globs import TooManyPaths, expand
from sftp_gateway.server.exec.session import CommandSession, Disconnected, message_of, sanitize
from sftp_gateway.server.handles import DirectoryHandle
from sftp_gateway.vfs.attributes import Attributes
from sftp_gateway.vfs.files import Entry

#: Levels of folders that are sent. A folder stays open until its entries are sent.
_MAX_DEPTH: Final = 100

#: Bytes of a path in a message. Clients accept lines of 2,048.
_MAX_SHOWN_PATH: Final = 1024

_MODE: Final = 0o7777


class _Unreadable(Exception):
    """A file could not be read to its end."""


async def receive(session: CommandSession, command: ScpSink) -> int:
    """Refuse an upload, with a message that the client shows."""
    try:
        await session.refuse_writing(command.path.path(session.home))
    except Denied:
        session.write(b"\x02scp: this server is read-only\n")
    return 1


async def send(session: CommandSession, command: ScpSource) -> int:
    """Send files and folders; the exit status is 1 if any was not sent."""
    source = _Source(session, recursive=command.recursive, times=command.times)
    try:
        paths = await expand(session, command.paths)
        await session.reply()
        for path in paths:
            await source.send(path.rstrip(b"/") or path, folder=False, within=())
    except TooManyPaths:
        session.write(b"\x02scp: Argument list too long\n")
        return 1
    except _Unreadable as error:
        session.write_error(b"scp: %s\n" % error.args[0])
        return 1
    return 1 if source.failed else 0


class _Source:
    """One run of the source."""

    def __init__(self, session: CommandSession, *, recursive: bool, times: bool) -> None:
        self._session = session
        self._recursive = recursive
        self._times = times
        #: Whether anything was not sent.
        self.failed = False

    async def send(self, path: bytes, *, folder: bool, within: tuple[object, ...]) -> None:
        """Send a file, or a folder (known to be one with `folder`); `within` are its parents."""
        if b"\n" in path:  # the protocol's lines cannot contain it
            self._fail(path, "a name with a newline cannot be sent")
            return
        try:
            if not folder:
                await self._send_file(path)
        except IsADirectory:
            folder = True
        except (FileSystemError, OSError) as error:
            self._fail(path, message_of(error))
        if folder and self._recursive:
            try:
                await self._send_folder(path, within)
            except (FileSystemError, OSError) as error:
                self._fail(path, message_of(error))
        elif folder:
            self._fail(path, "not a regular file")

    async def _send_file(self, path: bytes) -> None:
        session = self._session
        opened = await session.open_file(path)
        with session.closing(opened):
            size = opened.file.size
            if not await self._begin(b"C", path, await session.attributes_of(opened), size):
                return
            offset = 0
            while offset < size:
                try:
                    count = await session.send_file(opened, offset, size - offset)
                except (FileSystemError, OSError) as error:
                    raise _Unreadable(_error_line(path, message_of(error))) from error
                if not count:
                    raise _Unreadable(_error_line(path, "the file has become shorter"))
                offset += count
            session.write(b"\0")
            await self._accepted()

    async def _send_folder(self, path: bytes, within: tuple[object, ...]) -> None:
        session = self._session
        opened = await session.open_folder(path)
        with session.closing(opened):
            status = opened.directory.status
            identity = None if status is None else (status.st_dev, status.st_ino)
            if len(within) == _MAX_DEPTH or (identity is not None and identity in within):
                self._fail(path, "Too many levels of folders")  # probably a cycle of links
                return
            page = await session.entries(opened) or []
            here = next(entry.attributes for entry in page if entry.name == b".")
            if not await self._begin(b"D", path, here, 0):
                return
            await self._send_entries(path, opened, page, (*within, identity))
            session.write(b"E\n")
            await self._accepted()

    async def _send_entries(
        self, path: bytes, opened: DirectoryHandle, page: list[Entry], within: tuple[object, ...]
    ) -> None:
        """Send a folder's entries; `page` has the first of them."""
        while page:
            for name, attributes in page:
                if name not in (b".", b".."):
                    below = path.rstrip(b"/") + b"/" + name
                    await self.send(below, folder=stat.S_ISDIR(attributes.mode), within=within)
            try:
                page = await self._session.entries(opened) or []
            except (FileSystemError, OSError) as error:
                self._fail(path, message_of(error))
                return

    async def _begin(self, kind: bytes, path: bytes, shown: Attributes, size: int) -> bool:
        """Announce a file or folder; return whether the client accepts it."""
        session = self._session
        if self._times:
            session.write(b"T%d 0 %d 0\n" % (max(shown.mtime, 0), max(shown.atime, 0)))
            if not await self._accepted():
                return False
        name = path.rpartition(b"/")[2] or path
        session.write(b"%s%04o %d %s\n" % (kind, shown.mode & _MODE, size, name))
        return await self._accepted()

    async def _accepted(self) -> bool:
        """Whether the client replies that it accepts; raises Disconnected if it aborts."""
        reply = await self._session.reply()
        self.failed = self.failed or reply != 0
        if reply not in (0, 1):
            raise Disconnected("the client gave up")
        return reply == 0

    def _fail(self, path: bytes, words: str) -> None:
        self.failed = True
        self._session.write(b"\x01scp: %s\n" % _error_line(path, words))


def _error_line(path: bytes, words: str) -> bytes:
    return b"%s: %s" % (sanitize(path[-_MAX_SHOWN_PATH:]), words.encode())
