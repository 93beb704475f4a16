"""How fast a file of the mount is read."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Iterator

from sftp_gateway.worker_doctor.children import TOUCH, in_child
from sftp_gateway.worker_doctor.target import OK, PROBLEM, WARNING, Target

#: MB/s that are less than any disk or link of a server should give.
SLOW = 5.0
#: Bytes that are worth measuring.
BIG = 4 << 20


def check_throughput(target: Target, seconds: float, file: str) -> None:
    """Read a file of the mount for some seconds, past what the kernel has of it."""
    try:
        path, size, total, took = in_child(
            lambda: measure(file or target.mount, seconds), 3 * seconds + TOUCH
        )
    except TimeoutError:
        target.add(
            "throughput", PROBLEM, "reading did not end in time",
            "The server, its disk or the link stalls; try again, or name a file with --file.",
        )  # fmt: skip
        return
    except OSError as error:
        target.add("throughput", PROBLEM, f"reading failed: {error.strerror}", "", "dmesg | tail")
        return
    if not path or size < BIG:
        target.add(
            "throughput", OK, "not measured: there is no big file near the top; --file names one"
        )
        return
    rate = total / 1e6 / took
    found = f"{rate:.1f} MB/s ({total / 1e6:.0f} MB of {path} in {took:.1f} s)"
    if rate < SLOW:
        target.add(
            "throughput", WARNING, found,
            "That is little. The usual causes: a far link with little read-ahead (see there), a "
            "slow disk on the server, a full link, or bandwidth_limit of this user.",
        )  # fmt: skip
    else:
        target.add("throughput", OK, found)


def measure(top: str, seconds: float) -> tuple[str, int, int, float]:
    """A big file at or below `top`, its size, and what was read of it in so many seconds."""
    path, size = top, 0
    if os.path.isdir(top):
        path, size = max(_some_files(top, seconds), key=lambda each: each[1], default=("", 0))
    else:
        size = os.stat(top).st_size
    total, took = 0, 0.0
    if path and size >= BIG:
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.monotonic()
            while took < seconds:
                part = file.read(1 << 20)
                took = max(time.monotonic() - began, 1e-6)
                total += len(part)
                if not part:
                    break
    return path, size, total, took


def _some_files(top: str, seconds: float) -> Iterator[tuple[str, int]]:
    """Files near the top, until one is big enough to be measured for as long as is wanted."""
    deadline = time.monotonic() + seconds
    folders = [top]
    while folders and time.monotonic() < deadline:
        with contextlib.suppress(OSError), os.scandir(folders.pop(0)) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file():
                        size = entry.stat().st_size
                        yield entry.path, size
                        if size > 256 << 20 or time.monotonic() > deadline:
                            return
