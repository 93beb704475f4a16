"""What is measured. A workload is one function: a running server in, numbers by metric out."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import processes
from benchmarks.clients import Clients
from benchmarks.data import Data
from benchmarks.server import PATIENCE, Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a workload has: a server that was just started, its clients, and the data it serves."""

    server: Server
    clients: Clients
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that a workload gives. MB and GB are 10^6 and 10^9 bytes."""

    name: str
    title: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`run` gives a number for each of `metrics`, by name; one that a peer lacks is left out."""

    name: str
    run: Callable[[Stage], Mapping[str, float]]
    metrics: tuple[Metric, ...]


def start(stage: Stage) -> dict[str, float]:
    found = {"start_banner": stage.server.banner_after}
    if stage.server.ready_after is not None:
        found["start_ready"] = stage.server.ready_after
    return found


def memory(stage: Stage) -> dict[str, float]:
    number = stage.data.sizes.idle_sessions
    before = processes.memory(stage.server.pid)
    with stage.clients.idle_sessions(number):
        after = processes.memory(stage.server.pid)
    return {
        "memory_idle": before.pss / 1024,
        "memory_idle_rss": before.rss / 1024,
        "memory_sessions": after.pss / 1024,
        "memory_session": (after.pss - before.pss) / number,
        "memory_session_anonymous": (after.anonymous - before.anonymous) / number,
    }


def mount(stage: Stage) -> dict[str, float]:
    with _timed() as elapsed, stage.clients.mounted() as at:
        _run("ls", str(at))
        seconds = elapsed()
    return {"mount": seconds}


def sequential(stage: Stage) -> dict[str, float]:
    size = stage.data.sizes.big_bytes
    with stage.clients.mounted() as at:
        before = processes.cpu_seconds(stage.server.pid)
        with _timed() as elapsed:
            _run("dd", f"if={at}/big.bin", "of=/dev/null", "bs=1M", "status=none")
            seconds = elapsed()
        # The session is still open: its processes have not ended.
        spent = processes.cpu_seconds(stage.server.pid) - before
    return {"sequential": size / 1e6 / seconds, "sequential_cpu": spent / (size / 1e9)}


def get(stage: Stage) -> dict[str, float]:
    with _timed() as elapsed:
        stage.clients.sftp(f"get {stage.server.peer.remote}/big.bin /dev/null")
        return {"get": stage.data.sizes.big_bytes / 1e6 / elapsed()}


def small_files(stage: Stage) -> dict[str, float]:
    return {"small": _read_small_files(stage, readers=1)}


def small_files_8(stage: Stage) -> dict[str, float]:
    return {"small_8": _read_small_files(stage, readers=8)}


def walk(stage: Stage) -> dict[str, float]:
    with stage.clients.mounted() as at, _timed() as elapsed:
        # %s and %m are what makes find ask for the attributes of each entry.
        listed = _run("find", f"{at}/tree", "-mindepth", "1", "-printf", r"%s %m\n")
        seconds = elapsed()
    entries = listed.count(b"\n")
    if entries != stage.data.sizes.entries:
        raise AssertionError(f"found {entries} of {stage.data.sizes.entries} entries")
    return {"walk": entries / seconds}


def random_reads(stage: Stage) -> dict[str, float]:
    offsets = stage.data.random_offsets()
    with stage.clients.mounted() as at, open(at / "big.bin", "rb", buffering=0) as file:
        # The kernel reads nothing but what is asked, and nothing is asked twice.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        with _timed() as elapsed:
            for offset in offsets:
                if len(os.pread(file.fileno(), 4096, offset)) != 4096:
                    raise AssertionError(f"a short read at {offset}")
            return {"random": len(offsets) / elapsed()}


def logins(stage: Stage) -> dict[str, float]:
    number = stage.data.sizes.logins
    with _timed() as elapsed:
        # A client's end of input ends its session: ssh leaves with status 0 if it was let in.
        clients = [
            stage.clients.ssh_sftp(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            for _ in range(number)
        ]
        refused = sum(client.wait(PATIENCE) != 0 for client in clients)
        return {"logins": (number - refused) / elapsed(), "logins_refused": refused}


def _metric(name: str, title: str, unit: str, *, higher_is_better: bool = False) -> Metric:
    return Metric(name=name, title=title, unit=unit, higher_is_better=higher_is_better)


def _rate(name: str, title: str, unit: str) -> Metric:
    return _metric(name, title, unit, higher_is_better=True)


WORKLOADS: tuple[Workload, ...] = (
    Workload(
        name="start",
        run=start,
        metrics=(
            _metric("start_banner", "start: exec to the SSH banner", "s"),
            _metric("start_ready", "start: exec to /readyz 200", "s"),
        ),
    ),
    Workload(
        name="memory",
        run=memory,
        metrics=(
            _metric("memory_idle", "memory (PSS) before any session", "MiB"),
            _metric("memory_idle_rss", "memory (RSS) before any session", "MiB"),
            _metric("memory_sessions", "memory (PSS) with idle sessions", "MiB"),
            _metric("memory_session", "memory (PSS) for an idle session", "KiB"),
            _metric("memory_session_anonymous", "anonymous part of that", "KiB"),
        ),
    ),
    Workload(
        name="mount",
        run=mount,
        metrics=(_metric("mount", "mount: exec of sshfs to ls answered", "s"),),
    ),
    Workload(
        name="sequential",
        run=sequential,
        metrics=(
            _rate("sequential", "sequential read, sshfs", "MB/s"),
            _metric("sequential_cpu", "server CPU during it", "s/GB"),
        ),
    ),
    Workload(name="get", run=get, metrics=(_rate("get", "sftp get", "MB/s"),)),
    Workload(
        name="small",
        run=small_files,
        metrics=(_rate("small", "small files, 1 reader, sshfs", "files/s"),),
    ),
    Workload(
        name="small_8",
        run=small_files_8,
        metrics=(_rate("small_8", "small files, 8 readers, sshfs", "files/s"),),
    ),
    Workload(name="walk", run=walk, metrics=(_rate("walk", "walk with stat, sshfs", "entries/s"),)),
    Workload(
        name="random",
        run=random_reads,
        metrics=(_rate("random", "random 4 KiB reads, sshfs", "reads/s"),),
    ),
    Workload(
        name="logins",
        run=logins,
        metrics=(
            _rate("logins", "key logins, all at once", "logins/s"),
            _metric("logins_refused", "of these refused", "logins"),
        ),
    ),
)


def _read_small_files(stage: Stage, *, readers: int) -> float:
    """Files per second, read by `readers` processes with an equal share each."""
    names = stage.data.small_names
    share = -(-len(names) // readers)
    command = ["xargs", "-n", str(share), "-P", str(readers), "cat"]
    with stage.clients.mounted() as at, _timed() as elapsed:
        subprocess.run(
            command,
            input="\n".join(names).encode(),
            cwd=at,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=PATIENCE,
        )
        return len(names) / elapsed()


def _run(*command: str) -> bytes:
    """Run a program that must succeed; what it printed."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=PATIENCE
    )
    return done.stdout


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    """Gives a function that tells the seconds since."""
    started = time.perf_counter()
    yield lambda: time.perf_counter() - started
