"""What the gateway's processes take at a moment, and how that changes over hours."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import fmean

from benchmarks import processes
from benchmarks.bed import Bed
from benchmarks.processes import Memory

KINDS = ("supervisor", "observer", "worker")


@dataclass(frozen=True, slots=True)
class Process:
    """One process; `name` is its own (`worker 3`), `kind` one of KINDS."""

    name: str
    memory: Memory
    descriptors: int
    threads: int

    @property
    def kind(self) -> str:
        return self.name.partition(" ")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The gateway `at` so many seconds after the clients began; `restarting`: with workers that
    are being replaced. `sessions` and `handles` (open files and folders) by its own account."""

    at: float
    sessions: int
    handles: int
    errors: int
    restarting: bool
    processes: tuple[Process, ...]

    def memory(self) -> Memory:
        """Of all processes."""
        each = [process.memory for process in self.processes]
        return Memory(
            rss=sum(memory.rss for memory in each),
            pss=sum(memory.pss for memory in each),
            anonymous=sum(memory.anonymous for memory in each),
        )

    def descriptors(self) -> int:
        """Of all processes."""
        return sum(process.descriptors for process in self.processes)


class Log:
    """The gateway's access log, read as it grows: who its workers are, and what it counts."""

    def __init__(self, path: Path) -> None:
        self.events: Counter[str] = Counter()
        #: Names of workers by pid, numbered in the order of their start.
        self.workers: dict[int, str] = {}
        self.ended: set[int] = set()
        #: Workers that ended though nobody had asked for it.
        self.unexpected: list[str] = []
        self._path, self._at, self._rest = path, 0, b""

    def read(self) -> set[int]:
        """Take what was written since; returns the pids of the workers that are alive."""
        with open(self._path, "rb") as log:
            log.seek(self._at)
            lines = (self._rest + log.read()).split(b"\n")
            self._at = log.tell()
        self._rest = lines.pop()
        for line in lines:
            self._take(json.loads(line))
        return self.alive

    def _take(self, event: dict[str, object]) -> None:
        name, pid = str(event["event"]), event.get("pid")
        self.events[name] += 1
        if name == "worker_started" and isinstance(pid, int):
            self.workers[pid] = f"worker {len(self.workers) + 1}"
            self.ended.discard(pid)
        elif name == "worker_exited" and isinstance(pid, int):
            self.ended.add(pid)
            if not event.get("expected"):
                self.unexpected.append(f"{self.workers.get(pid)} ended: {json.dumps(event)}")

    @property
    def alive(self) -> set[int]:
        """Workers that have not ended."""
        return set(self.workers) - self.ended


class Family:
    """The gateway's processes. To be made when all workers are in the log, and before clients work:
    then the observer is the only other child. One that only tries a configuration comes later."""

    def __init__(self, bed: Bed, gateway: int, log: Log) -> None:
        others = {*processes.family(gateway)} - {gateway, *log.workers}
        self._bed, self._gateway, self._log = bed, gateway, log
        self._constant = {gateway: "supervisor", **dict.fromkeys(others, "observer")}

    def sample(self, *, at: float, errors: int, restarting: bool) -> Sample:
        """What there is now. Raises OSError where the gateway does not answer."""
        return Sample(
            at=at,
            sessions=int(self._bed.metric("sftp_gateway_sessions")),
            handles=int(self._bed.metric("sftp_gateway_open_handles")),
            errors=errors,
            restarting=restarting,
            processes=tuple(self._processes()),
        )

    def _processes(self) -> Iterator[Process]:
        names = {**self._log.workers, **self._constant}
        for pid in processes.family(self._gateway):
            if pid in names and (memory := processes.memory_of([pid])).rss:
                yield Process(
                    name=names[pid],
                    memory=memory,
                    descriptors=processes.descriptors(pid),
                    threads=processes.threads(pid),
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What became of a kind of process, or of all: KiB, KiB an hour, and numbers of each process.

    Means of a process over its first and last quarter, and the slope, do without its warm-up.
    """

    kind: str
    processes: int
    first: float
    last: float
    most: int
    slope: float
    pss_slope: float
    first_descriptors: int
    last_descriptors: int
    most_descriptors: int
    most_threads: int


def courses(samples: list[Sample], *, warm_up: float) -> list[Course]:
    """One for each kind of process.

    A process that has not outlived its warm-up counts for the greatest values only.
    """
    return [_course(kind, samples, warm_up) for kind in KINDS]


def _course(kind: str, samples: list[Sample], warm_up: float) -> Course:
    lives: dict[str, list[tuple[float, Process]]] = defaultdict(list)
    for each in samples:
        for process in each.processes:
            if process.kind == kind:
                lives[process.name].append((each.at, process))
    everything = [process for life in lives.values() for _, process in life]
    warm = [[(at, p) for at, p in life if at - life[0][0] >= warm_up] for life in lives.values()]
    warm = [life for life in warm if life] or [*lives.values()]
    return Course(
        kind=kind,
        processes=len(lives),
        first=fmean(p.memory.anonymous for life in warm for _, p in _quarter(life)),
        last=fmean(p.memory.anonymous for life in warm for _, p in _quarter(life[::-1])),
        most=max(process.memory.anonymous for process in everything),
        slope=slope([[(at, p.memory.anonymous) for at, p in life] for life in warm]),
        pss_slope=slope([[(at, p.memory.pss) for at, p in life] for life in warm]),
        first_descriptors=everything[0].descriptors,
        last_descriptors=everything[-1].descriptors,
        most_descriptors=max(process.descriptors for process in everything),
        most_threads=max(process.threads for process in everything),
    )


def _quarter(life: list[tuple[float, Process]]) -> list[tuple[float, Process]]:
    return life[: ceil(len(life) / 4)]


def slope(lives: Iterable[list[tuple[float, float]]]) -> float:
    """KiB an hour by least squares, the same for all lives, each from a height of its own.

    Each life has (seconds, KiB). Workers that replace others start small again: what is compared
    is each with itself.
    """
    above = below = 0.0
    for life in lives:
        middle = fmean(at for at, _ in life)
        height = fmean(kib for _, kib in life)
        above += sum((at - middle) * (kib - height) for at, kib in life)
        below += sum((at - middle) ** 2 for at, _ in life)
    return 3600 * above / below if below else 0.0
