"""Expands the wildcards in a command's words, as a shell does."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Collection, Iterable
from typing import Final

from sftp_gateway.errors import FileSystemError, GatewayError
from sftp_gateway.server.exec.command_line import Word
from sftp_gateway.server.exec.session import CommandSession
from sftp_gateway.vfs.path_resolution import PATH_MAX

#: Paths of one command, and their bytes. (Linux accepts 2 MiB, execve(2).)
_MAX_PATHS: Final = 4096
_MAX_BYTES: Final = 512 * 1024

#: Characters of a pattern for one name. Names have at most 255 bytes.
_MAX_PATTERN: Final = 255

#: A quoted wildcard.
_QUOTED: Final = re.compile(r"\[([*?[])\]")


class TooManyPaths(GatewayError):
    """The words expand to too many paths."""


async def expand(session: CommandSession, words: Iterable[Word]) -> list[bytes]:
    """Expand `words`; one without a match is a path itself. Raises TooManyPaths."""
    paths: list[bytes] = []
    for word in words:
        matches = await _matches(session, word) if word.pattern is not None else []
        paths += matches or [word.path(session.home)]
        _check_bounds(paths)
    return paths


def _check_bounds(paths: Collection[bytes]) -> None:
    if len(paths) > _MAX_PATHS or sum(map(len, paths)) > _MAX_BYTES:
        raise TooManyPaths


async def _matches(session: CommandSession, word: Word) -> list[bytes]:
    pattern = word.pattern or ""
    if len(pattern) >= PATH_MAX:
        return []
    start = session.home + b"/" if word.home else b"/" if pattern.startswith("/") else b""
    found, expanded = [start], False
    *folders, last = [part for part in pattern.split("/") if part]
    for part in (*folders, last):
        plain = _QUOTED.sub(r"\1", part)
        if not re.search(r"[*?[]", _QUOTED.sub("", part)):
            found = [path + os.fsencode(plain) for path in found]
            if expanded:
                found = [path for path in found if await _exists(session, path)]
        else:
            found = [each for path in found for each in await _names(session, path, part)]
            expanded = True
        _check_bounds(found)
        if part is not last:
            found = [path + b"/" for path in found]
    return found


async def _exists(session: CommandSession, path: bytes) -> bool:
    try:
        await session.attributes(path)
    except (FileSystemError, OSError):
        return False
    return True


async def _names(session: CommandSession, folder: bytes, pattern: str) -> list[bytes]:
    """The paths in `folder` that match, sorted; empty if it cannot be listed."""
    names: list[bytes] = []
    wanted = _matcher(pattern)
    try:
        opened = await session.open_folder(folder or b".")
        with session.closing(opened):
            while (entries := await session.entries(opened, wanted=wanted)) is not None:
                names += (entry.name for entry in entries)
                _check_bounds(names)
    except (FileSystemError, OSError):
        return []
    return [folder + name for name in sorted(names)]


def _matcher(pattern: str) -> Callable[[bytes], bool]:
    if len(pattern) > _MAX_PATTERN:
        return lambda name: False
    matches = re.compile(fnmatch.translate(pattern)).match
    hidden = pattern.startswith(".")

    def wanted(name: bytes) -> bool:
        return name.startswith(b".") <= hidden and matches(os.fsdecode(name)) is not None

    return wanted
