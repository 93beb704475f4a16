"""Files that are replaced whole, by one writer at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sftp_gateway.system.dirfd import Folder, Owner

_Told = TypeVar("_Told")


@contextmanager
def locked(folder: Path, *, make: bool = False) -> Iterator[Folder]:
    """Hold the folder; others who ask for the same wait. Raises OSError where it is not there,
    unless it is to be made."""
    with Folder.open(folder, make=make) as held:
        _lock(held)
        yield held


def change(path: Path, edit: Callable[[str], tuple[str, _Told]]) -> _Told:
    """Replace a file's text by what `edit` makes of it; give what `edit` tells besides.

    The text of a file that is not there is "". Mode and owner stay; a link stays too, and what it
    leads to is replaced, unless others could have put the link there: that is refused. Who reads
    the file sees the old text or the new. Where an editor, which knows nothing of our lock, saves
    the file meanwhile, its text is edited again.

    Raises what `edit` raises, and OSError; nothing is changed then.
    """
    folder, name = Folder.above(path)
    with folder:
        _lock(folder)
        while True:
            before, text = _read(folder, name)
            changed, told = edit(text)
            if changed == text or _replace(folder, name, changed, before):
                return told


def _lock(folder: Folder) -> None:
    """Wait for the folder; closing it lets go."""
    fcntl.flock(folder.descriptor, fcntl.LOCK_EX)


def _read(folder: Folder, name: str) -> tuple[os.stat_result | None, str]:
    held = folder.entry(name)
    if held is None:
        return None, ""
    with held:
        return held.status, held.read().decode("utf-8")


def _replace(folder: Folder, name: str, text: str, before: os.stat_result | None) -> bool:
    """Whether the file could be replaced: it still is as it was."""
    new = f".{name}.{secrets.token_hex(4)}"
    mode, owner = 0o644, folder.owner
    if before is not None:
        mode = stat.S_IMODE(before.st_mode) & 0o777
        owner = owner and Owner(before.st_uid, before.st_gid)
    folder.write_new(new, text.encode("utf-8"), mode=mode, owner=owner)
    try:
        if _changed(before, folder.lstat(name)):
            return False
        folder.rename(new, name)
    finally:
        folder.remove(new, missing_ok=True)
    return True


def _changed(before: os.stat_result | None, now: os.stat_result | None) -> bool:
    if before is None or now is None:
        return before is not now
    return (before.st_ino, before.st_size, before.st_mtime_ns) != (
        now.st_ino,
        now.st_size,
        now.st_mtime_ns,
    )
