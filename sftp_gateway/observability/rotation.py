"""Keeps the access log's file below a size: it is renamed, and each sink begins it anew.

One process does it, the observer: workers may not rename or delete anything (Landlock). The sinks
of all processes notice before their next batch, as they do where logrotate moved the file away.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Seconds between two looks at the size; a busy gateway writes some MB in that time.
INTERVAL: Final = 1.0

#: What stands behind the name of the file that was written before.
BEFORE: Final = ".1"


def rotate(path: Path, most: int) -> bool:
    """Move the file away where it has more than `most` bytes; whether it was.

    What was moved away before is replaced. Raises OSError where the folder does not allow it.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size > most:
            os.replace(path, path.with_name(path.name + BEFORE))
            # At once, so that who follows the log never finds none.
            path.touch(0o640)
            return True
    return False


def start(path: Path, most: int) -> None:
    """Look every second, on a thread that ends with the process."""

    def run() -> None:
        pause = threading.Event()
        while not pause.wait(INTERVAL):
            # A disk that is full or away is told by those who write to it.
            with suppress(OSError):
                rotate(path, most)

    threading.Thread(target=run, name="rotation", daemon=True).start()
