"""Files that are replaced whole, by one writer at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

_Told = TypeVar("_Told")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder; others who ask for the same wait. Raises OSError where it is not there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def change(path: Path, edit: Callable[[str], tuple[str, _Told]]) -> _Told:
    """Replace a file's text by what `edit` makes of it; give what `edit` tells besides.

    The text of a file that is not there is "". Mode and owner stay; a link stays too, and what it
    leads to is replaced. Who reads the file sees the old text or the new. Where an editor, which
    knows nothing of our lock, saves the file meanwhile, its text is edited again.

    Raises what `edit` raises, and OSError; nothing is changed then.
    """
    path = Path(os.path.realpath(path))
    with locked(path.parent):
        while True:
            before = _status(path)
            text = path.read_text(encoding="utf-8") if before is not None else ""
            changed, told = edit(text)
            if changed == text or _replace(path, changed, before):
                return told


def write_new(path: Path, content: bytes, *, mode: int, like: Path | None = None) -> None:
    """Make a file, which has its mode and the owner of `like` before it has its content.

    Raises OSError where there is one.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            if like is not None and os.geteuid() == 0:
                status = like.stat()
                os.fchown(descriptor, status.st_uid, status.st_gid)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _replace(path: Path, text: str, before: os.stat_result | None) -> bool:
    """Whether the file could be replaced: it still is as it was."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    mode = 0o644 if before is None else stat.S_IMODE(before.st_mode)
    write_new(new, text.encode("utf-8"), mode=mode, like=path if before else path.parent)
    try:
        if _changed(before, _status(path)):
            return False
        new.rename(path)
    finally:
        with suppress(FileNotFoundError):
            new.unlink()
    return True


def _changed(before: os.stat_result | None, now: os.stat_result | None) -> bool:
    if before is None or now is None:
        return before is not now
    return (before.st_ino, before.st_size, before.st_mtime_ns) != (
        now.st_ino,
        now.st_size,
        now.st_mtime_ns,
    )
