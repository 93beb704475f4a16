"""Keeps the access log's file below a size: it is renamed, and each sink begins it anew.

Old files have logrotate's names: `access.log.1` is the newest, and each moves up by one when it is
joined by another. They are bounded by number and by age.

One process does it, the observer: workers may not rename or delete anything (Landlock). The sinks
of all processes notice before their next batch, as they do where logrotate moved the file away.
"""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Seconds between two looks at the size; a busy gateway writes some MB in that time.
INTERVAL: Final = 1.0

#: Seconds between two looks at the age of old files.
_LOOK_AT_AGE: Final = 60.0


def rotate(path: Path, most: int, *, keep: int) -> bool:
    """Move the file away where it has more than `most` bytes; whether it was.

    Of the old files `keep` stay. Raises OSError where the folder does not allow it.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size > most:
            for number, old in sorted(_old_files(path), reverse=True):
                if number >= keep:
                    old.unlink()
                else:
                    old.replace(_old_file(path, number + 1))
            os.replace(path, _old_file(path, 1))
            # At once, so that who follows the log never finds none.
            path.touch(0o640)
            return True
    return False


def forget(path: Path, before: float) -> None:
    """Delete the old files that were last written before then. Raises OSError."""
    for _, old in _old_files(path):
        if old.stat().st_mtime < before:
            old.unlink()


def _old_file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _old_files(path: Path) -> list[tuple[int, Path]]:
    """Those that there are, with their numbers."""
    start = f"{path.name}."
    return [
        (int(number), old)
        for old in path.parent.iterdir()
        if old.name.startswith(start)
        and (number := old.name.removeprefix(start)).isascii()
        and number.isdecimal()
    ]


def start(path: Path, most: int, *, keep: int, max_age: float) -> None:
    """Look every second, on a thread that ends with the process; `max_age` in seconds."""

    def run() -> None:
        pause = threading.Event()
        looked = -math.inf
        while not pause.wait(INTERVAL):
            # A disk that is full or away is told by those who write to it.
            with suppress(OSError):
                rotate(path, most, keep=keep)
                if time.monotonic() - looked >= _LOOK_AT_AGE:
                    looked = time.monotonic()
                    forget(path, time.time() - max_age)

    threading.Thread(target=run, name="rotation", daemon=True).start()
