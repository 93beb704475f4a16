"""The source of scp's own protocol: what `scp -f` does for `scp -O` and for OpenSSH before 9.0.

For each file the client is sent `C0644 SIZE NAME`, the bytes and a zero byte, and replies to the
line and to the bytes; a folder is `D0755 0 NAME`, what is in it, and `E`; times come before either
(`T`). In the place of any of these lines may stand an error.

There is no place for an error within the bytes of a file. Where they cannot be read to their end,
the command ends there, with a message on standard error: the client fails, and leaves a short file.
(OpenSSH's source fills it up with zeros, and sends the next file. What is left then has the right
size, and other programs take it for a good one.)
"""

from __future__ import annotations

import stat
from typing import Final

from sftp_gateway.errors import Denied, FileSystemError, IsADirectory
from sftp_gateway.server.exec.command_line import ScpSink, ScpSource
from sftp_gateway.server.exec.globs import TooManyPaths, expand
from sftp_gateway.server.exec.session import CommandSession, Disconnected, printable, words_of
from sftp_gateway.server.handles import DirectoryHandle
from sftp_gateway.vfs.attributes import Attributes
from sftp_gateway.vfs.files import Entry

#: Folders within folders that are sent. Each is open until all in it is sent.
_MAX_DEPTH: Final = 100

#: Bytes of a path in a message: clients read lines of 2,048.
_MAX_TOLD: Final = 1024

_MODE: Final = 0o7777


class _Unreadable(Exception):
    """The bytes of a file cannot be sent to their end."""


async def receive(session: CommandSession, command: ScpSink) -> int:
    """Refuse an upload, with a message that the client shows."""
    try:
        await session.refuse_writing(command.path.path(session.home))
    except Denied:
        session.write(b"\x02scp: this server is read-only\n")
    return 1


async def send(session: CommandSession, command: ScpSource) -> int:
    """Send what `scp -f` names; the exit status is 1 if anything of it was not sent."""
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
        """Send a file or folder (`folder`: known to be one); `within` are the folders above."""
        if b"\n" in path:  # it would end the line that names the file
            self._fail(path, "a name with a newline cannot be sent")
            return
        try:
            if not folder:
                await self._send_file(path)
        except IsADirectory:
            folder = True
        except (FileSystemError, OSError) as error:
            self._fail(path, words_of(error))
        if folder and self._recursive:
            try:
                await self._send_folder(path, within)
            except (FileSystemError, OSError) as error:
                self._fail(path, words_of(error))
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
                    raise _Unreadable(_told(path, words_of(error))) from error
                if not count:
                    raise _Unreadable(_told(path, "the file has become shorter"))
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
                self._fail(path, "Too many levels of folders")  # links made a cycle, most likely
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
        """Send what is in a folder, of which `page` is read already."""
        while page:
            for name, attributes in page:
                if name not in (b".", b".."):
                    below = path.rstrip(b"/") + b"/" + name
                    await self.send(below, folder=stat.S_ISDIR(attributes.mode), within=within)
            try:
                page = await self._session.entries(opened) or []
            except (FileSystemError, OSError) as error:  # names are missing; the folder has begun
                self._fail(path, words_of(error))
                return

    async def _begin(self, kind: bytes, path: bytes, shown: Attributes, size: int) -> bool:
        """Announce a file or folder; return whether the client takes it."""
        session = self._session
        if self._times:
            session.write(b"T%d 0 %d 0\n" % (max(shown.mtime, 0), max(shown.atime, 0)))
            if not await self._accepted():
                return False
        name = path.rpartition(b"/")[2] or path
        session.write(b"%s%04o %d %s\n" % (kind, shown.mode & _MODE, size, name))
        return await self._accepted()

    async def _accepted(self) -> bool:
        """Whether the client takes what it was sent; raises Disconnected where it gives up."""
        reply = await self._session.reply()
        self.failed = self.failed or reply != 0
        if reply not in (0, 1):
            raise Disconnected("the client gave up")
        return reply == 0

    def _fail(self, path: bytes, words: str) -> None:
        self.failed = True
        self._session.write(b"\x01scp: %s\n" % _told(path, words))


def _told(path: bytes, words: str) -> bytes:
    return b"%s: %s" % (printable(path[-_MAX_TOLD:]), words.encode())
