"""One client that reads: big files, small ones, here and there, and from the disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks import pagecache, processes
from benchmarks.server import PATIENCE
from benchmarks.workloads.base import (
    Stage,
    Workload,
    command,
    metric,
    rate,
    read_whole,
    timed,
)


def sequential(stage: Stage) -> dict[str, float]:
    size = stage.data.sizes.big_bytes
    with stage.clients.mounted() as at:
        before = processes.cpu_seconds(stage.server.pid)
        with timed() as elapsed:
            command(*read_whole(at / "big.bin"))
            seconds = elapsed()
        # The session is still open: its processes have not ended.
        spent = processes.cpu_seconds(stage.server.pid) - before
    return {"sequential": size / 1e6 / seconds, "sequential_cpu": spent / (size / 1e9)}


def get(stage: Stage) -> dict[str, float]:
    with timed() as elapsed:
        stage.clients.sftp(f"get {stage.server.peer.remote_path('big.bin')} /dev/null")
        return {"get": stage.data.sizes.big_bytes / 1e6 / elapsed()}


def small_files(stage: Stage) -> dict[str, float]:
    with stage.clients.mounted() as at:
        return {"small": read_files(at, stage.data.small_names)}


def small_files_8(stage: Stage) -> dict[str, float]:
    with stage.clients.mounted() as at:
        return {"small_8": read_files(at, stage.data.small_names, readers=8)}


def walk(stage: Stage) -> dict[str, float]:
    with stage.clients.mounted() as at, timed() as elapsed:
        # %s and %m are what makes find ask for the attributes of each entry.
        listed = command("find", at / "tree", "-mindepth", "1", "-printf", r"%s %m\n")
        seconds = elapsed()
    entries = listed.count(b"\n")
    if entries != stage.data.sizes.entries:
        raise AssertionError(f"found {entries} of {stage.data.sizes.entries} entries")
    return {"walk": entries / seconds}


def random_reads(stage: Stage) -> dict[str, float]:
    with stage.clients.mounted() as at:
        return {"random": _read_here_and_there(at / "big.bin", stage.data.random_offsets())}


def cold(stage: Stage) -> dict[str, float]:
    sizes, served = stage.data.sizes, stage.data.root / "big.bin"
    if not pagecache.evictable(served):
        return {}
    with stage.clients.mounted() as at:
        pagecache.drop(served)
        with timed() as elapsed:
            command(*read_whole(at / "big.bin", megabytes=sizes.cold_bytes // 2**20))
            seconds = elapsed()
    # A mount of its own: the client's page cache has the start of the file now.
    with stage.clients.mounted() as at:
        pagecache.drop(served)
        offsets = stage.data.random_offsets()[: sizes.cold_reads]
        reads = _read_here_and_there(at / "big.bin", offsets)
    return {"cold": sizes.cold_bytes / 1e6 / seconds, "cold_random": reads}


def read_files(at: Path, names: Sequence[str], *, readers: int = 1) -> float:
    """Files per second, read by `readers` processes with an equal share each."""
    share = -(-len(names) // readers)
    with timed() as elapsed:
        subprocess.run(
            ["xargs", "-n", str(share), "-P", str(readers), "cat"],
            input="\n".join(names).encode(),
            cwd=at,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=PATIENCE,
        )
        return len(names) / elapsed()


def _read_here_and_there(path: Path, offsets: Sequence[int]) -> float:
    """Reads of 4 KiB per second, one after another."""
    with open(path, "rb", buffering=0) as file:
        # The kernel reads nothing but what is asked, and nothing is asked twice.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        with timed() as elapsed:
            for offset in offsets:
                if len(os.pread(file.fileno(), 4096, offset)) != 4096:
                    raise AssertionError(f"a short read at {offset}")
            return len(offsets) / elapsed()


WORKLOADS = (
    Workload(
        name="sequential",
        run=sequential,
        metrics=(
            rate("sequential", "sequential read, sshfs", "MB/s"),
            metric("sequential_cpu", "server CPU of the sequential read", "s/GB"),
        ),
        for_all=True,
    ),
    Workload(name="get", run=get, metrics=(rate("get", "sftp get", "MB/s"),), for_all=True),
    Workload(
        name="small",
        run=small_files,
        metrics=(rate("small", "small files, 1 reader, sshfs", "files/s"),),
        for_all=True,
    ),
    Workload(
        name="small_8",
        run=small_files_8,
        metrics=(rate("small_8", "small files, 8 readers, sshfs", "files/s"),),
        for_all=True,
    ),
    Workload(
        name="walk",
        run=walk,
        metrics=(rate("walk", "walk with stat, sshfs", "entries/s"),),
        for_all=True,
    ),
    Workload(
        name="random",
        run=random_reads,
        metrics=(rate("random", "random 4 KiB reads, sshfs", "reads/s"),),
        for_all=True,
    ),
    Workload(
        name="cold",
        run=cold,
        metrics=(
            rate("cold", "sequential read from the disk, sshfs", "MB/s"),
            rate("cold_random", "random 4 KiB reads from the disk, sshfs", "reads/s"),
        ),
    ),
)
