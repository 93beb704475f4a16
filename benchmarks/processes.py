"""What a server costs, read from /proc: processor time and memory of it and all its children.

And clients that end in time, waited for without a look at the clock.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")

#: Seconds without any change after which a server counts as idle, and after which one that does
#: something now and then is taken as it is.
_QUIET = 0.25
_RESTLESS = 10.0

#: More than the address spaces whose translations Linux keeps apart on a processor of x86 (6).
_ADDRESS_SPACES = 8


@dataclass(frozen=True, slots=True)
class Memory:
    """KiB of a group of processes, the sum of what each has (proc(5) smaps, "Rss", "Pss", ...).

    `pss` shares out each page among all processes that map it, those of clients too: a library
    that clients use as well weighs less the more of them there are. `anonymous` is the part of
    it that is no file's, which only a server and its children share.
    """

    rss: int
    pss: int
    anonymous: int


def family(pid: int) -> list[int]:
    """The process `pid` and everything below it that is alive now."""
    return list(_family(pid))


def cpu_seconds(pid: int) -> float:
    """User and system time of the family of `pid`, with children that have ended (proc(5) stat).

    A child's time is in its own entry while it lives and in its parent's once it was waited for,
    so nothing is counted twice, and nothing is lost when a worker is replaced by another.
    Resolution: one clock tick, 10 ms.
    """
    return sum(sum(map(int, fields[11:15])) for fields in _family(pid).values()) / _TICKS


def cpu_clock(pid: int) -> int:
    """A process's CPU-time clock for time.clock_gettime, as clock_getcpuclockid(3) returns it."""
    return (~pid << 3) | 2


def cpu_nanoseconds(members: Iterable[int]) -> int:
    """User and system time of these processes, which are alive, without their children."""
    return sum(time.clock_gettime_ns(cpu_clock(member)) for member in members)


def user_and_system(members: Iterable[int]) -> tuple[float, float]:
    """The same in seconds, apart, by clock ticks of 10 ms."""
    stats = dict(_stats())
    user, system = (sum(int(stats[each][at]) for each in members) for at in (11, 12))
    return user / _TICKS, system / _TICKS


def traced(pid: int) -> bool:
    """Whether all threads of a process have a tracer."""
    statuses = (_PROC / str(pid) / "task").glob("*/status")
    return not any("TracerPid:\t0\n" in status.read_text() for status in statuses)


class PageCounter:
    """Counts the pages that processes use meanwhile (proc(5) clear_refs, smaps "Referenced").

    A processor marks a page as used only when it looks its address up, and the kernel does not make
    it forget those that it knows. It forgets after it has run a few other processes: these echoes.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._echoes: list[socket.socket] = []
        for processor in sorted(os.sched_getaffinity(0)):
            for _ in range(_ADDRESS_SPACES):
                ours, theirs = socket.socketpair()
                stack.enter_context(ours)
                with theirs:
                    echo = subprocess.Popen(["cat"], stdin=theirs.fileno(), stdout=theirs.fileno())
                stack.callback(echo.wait)
                stack.callback(echo.kill)
                os.sched_setaffinity(echo.pid, {processor})
                self._echoes.append(ours)

    def count(self, members: Sequence[int], action: Callable[[], object]) -> int:
        """Pages used during `action`; one that two of `members` use counts twice.

        Raises PermissionError for others' processes.
        """
        for member in members:
            (_PROC / str(member) / "clear_refs").write_text("1")
        for echo in self._echoes:
            echo.send(b".")
            echo.recv(1)
        action()
        return sum(_kib(member)["Referenced"] for member in members) // (mmap.PAGESIZE // 1024)


def busy_seconds(pid: int) -> float:
    """Time for which threads of the family of `pid` had a processor, in nanoseconds' resolution.

    From /proc/PID/task/TID/schedstat; what has ended does not count any more.
    """
    spent = 0
    for member in family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in (_PROC / str(member) / "task").iterdir():
                spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9


@contextlib.contextmanager
def ended_after(seconds: float, *running: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill what still runs after so many seconds, while the block waits for it.

    `Popen.wait` with a timeout looks 20 times a second: that would be in every number.
    """

    def end() -> None:
        for each in running:
            each.kill()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def memory(pid: int) -> Memory:
    """Memory of the family of `pid`, once it has come to rest.

    The process that sshd made for a connection that was just closed does not count any more.
    """
    before = None
    deadline = time.monotonic() + _RESTLESS
    while before != (now := (family(pid), cpu_seconds(pid))) and time.monotonic() < deadline:
        before = now
        time.sleep(_QUIET)
    return memory_now(pid)


def memory_now(pid: int) -> Memory:
    """Memory of the family of `pid` at this moment."""
    return memory_of(family(pid))


def memory_of(members: Iterable[int]) -> Memory:
    """Memory of these processes (proc(5) smaps_rollup); one that is gone has none."""
    total = Counter[str]()
    for member in members:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total.update(_kib(member))
    return Memory(total["Rss"], total["Pss"], total["Pss_Anon"])


def _kib(pid: int) -> dict[str, int]:
    """The fields of smaps_rollup."""
    lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {name.rstrip(":"): int(value) for name, value, _ in fields}


def descriptors(pid: int) -> int:
    """Files that a process has open; 0 if it is gone."""
    return _entries(pid, "fd")


def threads(pid: int) -> int:
    """Threads of a process; 0 if it is gone."""
    return _entries(pid, "task")


def _entries(pid: int, folder: str) -> int:
    try:
        return len(os.listdir(_PROC / str(pid) / folder))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _family(pid: int) -> dict[int, list[str]]:
    """Fields of `pid` and everything below it, from one look at all processes."""
    stats = dict(_stats())
    children: dict[int, list[int]] = {}
    for child, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(child)
    members = [pid]
    for each in members:
        members += children.get(each, [])
    return {each: stats[each] for each in members if each in stats}


def _stats() -> Iterator[tuple[int, list[str]]]:
    """The fields of /proc/PID/stat behind the name, from "state" on, of every process."""
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The name is in brackets and may hold anything, brackets too.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                yield int(entry.name), fields
