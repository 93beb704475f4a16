"""A server that is 50 ms away: behind a proxy on loopback that delays."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.delay import link
from benchmarks.workloads.base import Stage, Workload, command, rate, read_whole, timed
from benchmarks.workloads.reading import read_files

#: What a client can do about it: sshfs's largest READ, and this read-ahead of its kernel, in KiB.
_TUNED = "max_read=65536"
_READ_AHEAD = 4096


def far(stage: Stage) -> dict[str, float]:
    sizes = stage.data.sizes
    found: dict[str, float] = {}
    with link(stage.server.peer.port) as port:
        with stage.clients.mounted(port=port) as at:
            found["far"] = _read(at, sizes.far_bytes)
            found["far_small"] = read_files(at, stage.data.small_names[: sizes.far_files])
        with stage.clients.mounted(_TUNED, port=port) as at:
            if _raise_read_ahead(at):
                found["far_tuned"] = _read(at, sizes.far_bytes)
    return found


def _read(at: Path, size: int) -> float:
    """MB/s of the first `size` bytes of the big file."""
    with timed() as elapsed:
        command(*read_whole(at / "big.bin", megabytes=size // 2**20))
        return size / 1e6 / elapsed()


def _raise_read_ahead(at: Path) -> bool:
    """Whether the mount's read-ahead could be raised: by root, where /sys can be written."""
    device = at.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        setting.write_text(str(_READ_AHEAD))
    except OSError:
        return False
    return True


WORKLOADS = (
    Workload(
        name="far",
        run=far,
        metrics=(
            rate("far", "50 ms away: sequential read, sshfs", "MB/s"),
            rate("far_tuned", "the same, max_read=65536, read-ahead 4 MiB", "MB/s"),
            rate("far_small", "50 ms away: small files, 1 reader, sshfs", "files/s"),
        ),
    ),
)
