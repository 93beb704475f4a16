"""Rotates the access log's file by size.

Old files are named as by logrotate: `access.log.1` is the newest, and all move up by one when
another is added. Their number and age are limited.

Only the observer rotates; Landlock denies workers to rename or delete files. The sinks reopen the
file before their next batch, as after logrotate.
"""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Seconds between checks of the size; a busy gateway writes a few MB in that time.
INTERVAL: Final = 1.0

#: Seconds between checks of the age of old files.
_AGE_CHECK_INTERVAL: Final = 60.0


def rotate(path: Path, most: int, *, keep: int) -> bool:
    """Rename the file if it is larger than `most` bytes; return whether it was.

    `keep` old files are kept. Raises OSError.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size > most:
            for number, old in sorted(_old_files(path), reverse=True):
                if number >= keep:
                    old.unlink()
                else:
                    old.replace(_old_file(path, number + 1))
            os.replace(path, _old_file(path, 1))
            # Immediately, so that `tail -F` never finds it missing.
            path.touch(0o640)
            return True
    return False


def delete_older(path: Path, before: float) -> None:
    """Delete old files last modified before the time `before`. Raises OSError."""
    for _, old in _old_files(path):
        if old.stat().st_mtime < before:
            old.unlink()


def _old_file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _old_files(path: Path) -> list[tuple[int, Path]]:
    """The rotated files with their numbers."""
    start = f"{path.name}."
    return [
        (int(number), old)
        for old in path.parent.iterdir()
        if old.name.startswith(start)
        and (number := old.name.removeprefix(start)).isascii()
        and number.isdecimal()
    ]


def start(path: Path, most: int, *, keep: int, max_age: float) -> None:
    """Rotate on a daemon thread; `max_age` is in seconds."""

    def run() -> None:
        pause = threading.Event()
        checked = -math.inf
        while not pause.wait(INTERVAL):
            # The sinks report disk errors.
            with suppress(OSError):
                rotate(path, most, keep=keep)
                if time.monotonic() - checked >= _AGE_CHECK_INTERVAL:
                    checked = time.monotonic()
                    delete_older(path, time.time() - max_age)

    threading.Thread(target=run, name="rotation", daemon=True).start()
