"""A FUSE file system that shows a folder and holds each read back by a gate.

`python -m tests.support.slow_disk FOLDER MOUNT GATE SECONDS` serves it in the foreground; reads
wait for as long as the file GATE exists and is empty, and fail with EIO while it says so. While it
says "frozen", look-ups and statfs(2) wait too. The kernel caches names and attributes for SECONDS.
libfuse answers ten requests at once: with that many held back, nothing else of the file system is
answered either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.gateway import filesystem

#: Seconds for which a disk may hang altogether.
_LONGEST = 60.0


class Disk:
    """The slow disk's process, which can be stopped: then nothing of it answers at all.

    It goes on by itself some day: nothing else ends a test that waits for it, not even a signal.
    """

    tired = False

    def __init__(self, process: subprocess.Popen[bytes], gate: Path) -> None:
        self._process = process
        self._gate = gate
        self._end = threading.Timer(_LONGEST, self._tire)

    def hang(self) -> None:
        """Stop the process: a fatal signal still ends processes that wait for it."""
        self._process.send_signal(signal.SIGSTOP)
        self._begin()

    def freeze(self) -> None:
        """Accept requests without replying: no signal ends processes that wait."""
        self._gate.write_text("frozen")
        self._begin()

    def die(self) -> None:
        """Kill the process; its mount fails with ENOTCONN until it is unmounted."""
        self._process.kill()
        self._process.wait()

    def resume(self) -> None:
        self._end.cancel()
        self._release()
        assert not self.tired, f"somebody waited {_LONGEST} s for the disk"

    def _begin(self) -> None:
        self._end.daemon = True
        self._end.start()

    def _tire(self) -> None:
        self.tired = True
        self._release()

    def _release(self) -> None:
        self._gate.unlink(missing_ok=True)
        self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def slow_disk(folder: Path, mount: Path, gate: Path) -> Iterator[Path]:
    """Show `folder` at `mount`; reads wait for as long as the file `gate` exists."""
    with failing_disk(folder, mount, gate):
        yield mount


@contextlib.contextmanager
def failing_disk(folder: Path, mount: Path, gate: Path, *, cached: float = 1.0) -> Iterator[Disk]:
    """The same as a Disk, which can fail; the kernel caches for this many seconds."""
    mount.mkdir(exist_ok=True)
    arguments = (folder, mount, gate, str(cached))
    with filesystem("tests.support.slow_disk", *arguments, mount=mount) as process:
        try:
            yield Disk(process, gate)
        finally:
            process.send_signal(signal.SIGCONT)
            gate.unlink(missing_ok=True)


def _gate_state(gate: str) -> str | None:
    """The gate's content, or None if it is open."""
    try:
        with open(gate) as file:
            return file.read()
    except FileNotFoundError:
        return None


def _wait_while_frozen(gate: str) -> None:
    while _gate_state(gate) == "frozen":
        time.sleep(0.01)


def _serve(folder: str, mount: str, gate: str, cached: str) -> None:
    import mfusepy as fuse

    class SlowDisk(fuse.Operations):
        use_ns = True

        def _real(self, path: str) -> str:
            return os.path.join(folder, path.lstrip("/"))

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            _wait_while_frozen(gate)
            try:
                status = os.lstat(self._real(path))
            except OSError as error:
                raise fuse.FuseOSError(error.errno) from None
            names = ("st_mode", "st_size", "st_uid", "st_gid", "st_nlink")
            times = ("st_atime", "st_mtime", "st_ctime")
            return {
                **{name: getattr(status, name) for name in names},
                **{name: getattr(status, f"{name}_ns") for name in times},
            }

        def statfs(self, path: str) -> dict[str, int]:
            _wait_while_frozen(gate)
            return {}

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *os.listdir(self._real(path))]

        def open(self, path: str, flags: int) -> int:
            return os.open(self._real(path), os.O_RDONLY)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            while (state := _gate_state(gate)) is not None:
                if state == "EIO":
                    raise fuse.FuseOSError(errno.EIO)
                time.sleep(0.01)
            return os.pread(fh, size, offset)

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

    fuse.FUSE(
        SlowDisk(),
        mount,
        foreground=True,
        nothreads=False,
        direct_io=True,
        ro=True,
        entry_timeout=cached,
        attr_timeout=cached,
    )


if __name__ == "__main__":
    _serve(*sys.argv[1:])
