"""Detects changed files by stat(2), once a second.

inotify(7) would miss a link that is replaced (Kubernetes), a mount of its own (Docker secrets) and
changes on a file server. The observer polls, on a thread, because stat(2) may wait for a disk and
the supervisor must not. The observer needs no permission to read the files.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

#: Seconds between two polls.
POLL_INTERVAL: Final = 1.0

#: Attributes of a file, or the errno of stat(2).
Fingerprint: TypeAlias = tuple[int, ...]
Fingerprints: TypeAlias = Mapping[str, Fingerprint]


def fingerprint(paths: Iterable[Path | str]) -> Fingerprints:
    """The fingerprints of these files now, by path."""
    return {str(path): _fingerprint(path) for path in paths}


def _fingerprint(path: Path | str) -> Fingerprint:
    try:
        status = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    # Unlike the others, st_ctime cannot be set back.
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
        status.st_uid,
    )


def has_content(seen: Fingerprint) -> bool:
    """Whether a file with this fingerprint was there and not empty."""
    return len(seen) > 1 and seen[2] > 0


class FileWatcher:
    """Detects changes that are complete: two polls in a row find the same.

    A file that is being written is not reported, and many changes at once are reported as one.
    """

    def __init__(self, known: Fingerprints) -> None:
        """`known` has the files as they were before they were read."""
        self._known = self._last = known

    def reset(self, known: Fingerprints) -> None:
        """Watch these files from now on; changes since then are reported."""
        self._known = self._last = known

    def poll(self) -> bool:
        """Whether something has changed that was not reported before."""
        known, before = self._known, self._last
        self._last = now = fingerprint(known)
        if now == known or now != before:
            return False
        if self._known is known:  # not reset meanwhile
            self._known = now
        return True


def start_watching(watcher: FileWatcher, changed: Callable[[], None]) -> None:
    """Poll on a thread, which ends with the process; call `changed` from there."""

    def run() -> None:
        pause = threading.Event()
        while not pause.wait(POLL_INTERVAL):
            if watcher.poll():
                changed()

    threading.Thread(target=run, name="watch", daemon=True).start()
