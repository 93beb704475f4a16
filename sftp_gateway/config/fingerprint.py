"""Notices that files have changed, by looking at them once a second.

Looking, where inotify would tell: a file may be a link that is exchanged (Kubernetes), a mount of
its own (Docker's secrets), or on another machine, and inotify sees none of these. It is done in
the observer, on a thread: a look may wait for a disk or a server, and the supervisor must not.
stat(2) is all it takes, so the observer needs no right to read what it watches.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

#: Seconds between two looks.
INTERVAL: Final = 1.0

#: A file as `stat` shows it, or why it does not.
_Look: TypeAlias = tuple[int, ...]
Looks: TypeAlias = Mapping[str, _Look]


def look(paths: Iterable[Path | str]) -> Looks:
    """How these files look now; two looks that are equal mean that nothing has changed."""
    return {str(path): _look(path) for path in paths}


def _look(path: Path | str) -> _Look:
    try:
        status = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    # The time of the last change of the inode (st_ctime) cannot be set back, as others can.
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
        status.st_uid,
    )


def has_content(seen: _Look) -> bool:
    """Whether a file that looked so was there, and not empty."""
    return len(seen) > 1 and seen[2] > 0


class Watch:
    """Tells of changes that have come to rest: two looks in a row that are the same.

    So a file that is just being written is not read, and many changes at once are one.
    """

    def __init__(self, known: Looks) -> None:
        """`known` is how the files looked before they were read."""
        self._known = self._last = known

    def renew(self, known: Looks) -> None:
        """Watch these from now on; what has changed since is told."""
        self._known = self._last = known

    def look(self) -> bool:
        """Look once; whether something has changed that was not told before."""
        known, before = self._known, self._last
        self._last = now = look(known)
        if now == known or now != before:
            return False
        if self._known is known:  # not renewed meanwhile
            self._known = now
        return True


def start(watch: Watch, changed: Callable[[], None]) -> None:
    """Look every second on a thread, which ends with the process; call `changed` from there."""

    def run() -> None:
        pause = threading.Event()
        while not pause.wait(INTERVAL):
            if watch.look():
                changed()

    threading.Thread(target=run, name="watch", daemon=True).start()
