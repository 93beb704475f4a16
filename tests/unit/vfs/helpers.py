"""Helpers for the tests of the file tree."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from sftp_gateway.vfs.attributes import Attributes
from sftp_gateway.vfs.files import Entry, OpenDirectory
from sftp_gateway.vfs.path_resolution import ManualResolver, Openat2Resolver, PathResolver
from sftp_gateway.vfs.share import Links, Share

Result = TypeVar("Result")

RESOLVERS: tuple[type[PathResolver], ...] = (Openat2Resolver, ManualResolver)
SECRET = b"nobody may read this"

#: Seconds; only a failing test waits this long.
DEADLINE = 30.0


class MakeShare(Protocol):
    """The `make_share` fixture."""

    def __call__(
        self, root: Path | None = None, *, links: Links = ..., name: str = ...
    ) -> Share: ...


def read(share: Share, path: bytes, *, wait: bool = True) -> bytes:
    """The first 4,096 bytes of `path`."""
    file = share.open_file(path, wait=wait)
    try:
        buffer = bytearray(4096)
        return bytes(buffer[: file.read([memoryview(buffer)], 0)])
    finally:
        file.close()


def entries(folder: OpenDirectory) -> list[Entry]:
    """The remaining entries of an open folder, which is then closed."""
    try:
        return take_entries(folder)
    finally:
        folder.close()


def take_entries(folder: OpenDirectory, limit: int = 1 << 62) -> list[Entry]:
    """The next entries of an open folder, at most `limit`."""
    found: list[Entry] = []

    def take(name: bytes, attributes: Attributes) -> bool:
        if len(found) == limit:
            return False
        found.append(Entry(name, attributes))
        return True

    folder.take_while(take)
    return found


def listing(share: Share, path: bytes = b"") -> dict[bytes, Entry]:
    """The entries of a folder by name, without `.` and `..`."""
    found = {entry.name: entry for entry in entries(share.open_directory(path, wait=True))}
    assert found.pop(b".").attributes == found.pop(b"..").attributes
    return found


def without_atime(attributes: Attributes) -> Attributes:
    """`attributes` without the access time, which a listing changes."""
    return attributes._replace(atime=0)


def mark_recently_followed(link: Path) -> None:
    """Make the kernel follow `link` without updating its access time, which may block.

    mount(8), "relatime": the time is updated once a day, and after each change of the link.
    """
    os.utime(link, (time.time() + 1000, 0), follow_symlinks=False)


def descriptors() -> dict[str, str]:
    """The descriptors of this process and their targets."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


def without_blocking(function: Callable[[], Result]) -> Result:
    """Run `function` on a thread, and fail if it blocks."""
    results: list[Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:  # raised in the caller
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive(), "blocked"
    if errors:
        raise errors[0]
    return results[0]


#: Every operation on a path that follows links.
FOLLOWING: tuple[Callable[[Share, bytes], object], ...] = (
    lambda share, path: share.stat(path, wait=True),
    read,
    lambda share, path: entries(share.open_directory(path, wait=True)),
    lambda share, path: share.statvfs(path, wait=True),
)
