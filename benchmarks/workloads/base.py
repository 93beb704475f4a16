"""What a workload is, and what they share."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
    """`run` gives a number for each of `metrics`, by name; one that cannot be had is left out.

    A workload that is not `for_all` peers is for the main ones.
    """

    name: str
    run: Callable[[Stage], Mapping[str, float]]
    metrics: tuple[Metric, ...]
    for_all: bool = False


def metric(name: str, title: str, unit: str) -> Metric:
    """One of which less is better."""
    return Metric(name=name, title=title, unit=unit, higher_is_better=False)


def rate(name: str, title: str, unit: str) -> Metric:
    """One of which more is better."""
    return Metric(name=name, title=title, unit=unit, higher_is_better=True)


def command(*words: str | Path, given: bytes = b"", folder: Path | None = None) -> bytes:
    """Run a program that must succeed, in `folder`, with `given` to read; what it printed."""
    with (
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder
        ) as running,
        processes.ended_after(PATIENCE, running),
    ):
        printed, _ = running.communicate(given)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, [*map(str, words)])
    return printed


def at_once(commands: Sequence[Sequence[str]]) -> None:
    """Run programs side by side; raises RuntimeError if one fails."""
    running = [subprocess.Popen(each, stdin=subprocess.DEVNULL) for each in commands]
    try:
        with processes.ended_after(PATIENCE, *running):
            failed = sum(each.wait() != 0 for each in running)
        if failed:
            raise RuntimeError(f"{commands[0][0]} failed")
    finally:
        for each in running:
            each.kill()
            each.wait()


def read_whole(path: Path, *, megabytes: int | None = None) -> Sequence[str]:
    """The command that reads a file from its start, or so many MiB of it."""
    count = [] if megabytes is None else [f"count={megabytes}"]
    return ["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none", *count]


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Gives a function that tells the seconds since."""
    started = time.perf_counter()
    yield lambda: time.perf_counter() - started
