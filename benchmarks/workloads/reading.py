"""One client that reads: big files, small ones, here and there, and from the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import pagecache, processes
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
    names = stage.data.small_names
    with stage.clients.mounted() as at, _served(stage, "small", len(names)) as found:
        found["small"] = read_files(at, names)
    return found


def small_files_8(stage: Stage) -> dict[str, float]:
    with stage.clients.mounted() as at:
        return {"small_8": read_files(at, stage.data.small_names, readers=8)}


def walk(stage: Stage) -> dict[str, float]:
    expected = stage.data.sizes.entries
    with (
        stage.clients.mounted() as at,
        _served(stage, "walk", expected) as found,
        timed() as passed,
    ):
        # %s and %m are what makes find ask for the attributes of each entry.
        listed = command("find", at / "tree", "-mindepth", "1", "-printf", r"%s %m\n")
        found["walk"] = expected / passed()
    entries = listed.count(b"\n")
    if entries != expected:
        raise AssertionError(f"found {entries} of {expected} entries")
    return found


def random_reads(stage: Stage) -> dict[str, float]:
    offsets = stage.data.random_offsets()
    with stage.clients.mounted() as at, _served(stage, "random", len(offsets)) as found:
        found["random"] = _read_here_and_there(at / "big.bin", offsets)
    return found


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
        words = [
            "xargs",
            "-n",
            str(share),
            "-P",
            str(readers),
            "sh",
            "-c",
            'cat "$@" >/dev/null',
            "-",
        ]
        command(*words, given="\n".join(names).encode(), folder=at)
        return len(names) / elapsed()


@contextmanager
def _served(stage: Stage, name: str, operations: int) -> Iterator[dict[str, float]]:
    """For the rate `name`, and beside it what it would be with a server that takes no time.

    One operation follows the other: what the server does not take of the time, clients, kernel and
    wake-ups do.
    """
    found: dict[str, float] = {}
    before = processes.busy_seconds(stage.server.pid)
    yield found
    spent = processes.busy_seconds(stage.server.pid) - before
    found[f"{name}_ceiling"] = operations / (operations / found[name] - spent)


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
        metrics=(
            rate("small", "small files, 1 reader, sshfs", "files/s"),
            rate("small_ceiling", "the same, if the server took no time", "files/s"),
        ),
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
        metrics=(
            rate("walk", "walk with stat, sshfs", "entries/s"),
            rate("walk_ceiling", "the same, if the server took no time", "entries/s"),
        ),
        for_all=True,
    ),
    Workload(
        name="random",
        run=random_reads,
        metrics=(
            rate("random", "random 4 KiB reads, sshfs", "reads/s"),
            rate("random_ceiling", "the same, if the server took no time", "reads/s"),
        ),
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
