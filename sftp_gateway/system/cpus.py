"""How many processors the gateway may use."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

#: More would only take memory: fewer fill a link already.
MAX_AUTO_WORKERS: Final = 8


def worker_count(wanted: int | Literal["auto"]) -> int:
    """The number of workers; "auto" is one per available processor, at most MAX_AUTO_WORKERS."""
    return min(available(), MAX_AUTO_WORKERS) if wanted == "auto" else wanted


def available(root: Path = Path("/")) -> int:
    """Processors in this process's CPU set and within its cgroup's limit, rounded up; at least 1.

    `root` is where proc and sys are mounted.
    """
    limit = min([math.inf, *_limits(root)])
    return max(1, min(len(os.sched_getaffinity(0)), math.ceil(min(limit, 1e6))))


def _limits(root: Path) -> list[float]:
    """The limits, in processors, of the cgroup and all above it; of version 2 and of version 1."""
    found: list[float] = []
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                found += _walk(root / "sys/fs/cgroup", path, _limit)
            elif "cpu" in controllers.split(","):
                found += _walk(root / "sys/fs/cgroup/cpu", path, _limit_of_version_1)
    return found


def _walk(mount: Path, path: str, limit: Callable[[Path], float]) -> Iterator[float]:
    # In a container the path may be the host's, of which only the end, or nothing, is mounted.
    group = mount / path.strip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(mount):
            with suppress(OSError, ValueError, ZeroDivisionError):
                yield limit(folder)


def _limit(group: Path) -> float:
    """cgroup-v2, cpu.max: "$MAX $PERIOD" in microseconds; $MAX may be "max"."""
    quota, period = (group / "cpu.max").read_text().split()
    return int(quota) / int(period)


def _limit_of_version_1(group: Path) -> float:
    quota = int((group / "cpu.cfs_quota_us").read_text())
    period = int((group / "cpu.cfs_period_us").read_text())
    return quota / period if quota > 0 else math.inf
