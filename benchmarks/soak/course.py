"""A soak from its start to its end: the gateway, its clients, the samples, and what it shows."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bed import Bed, Mount
from benchmarks.endurance import MIB, poll
from benchmarks.pattern import Pattern
from benchmarks.server import PATIENCE
from benchmarks.soak.clients import Clients, Data
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.samples import Family, Log, Sample

#: How many samples there are, unless that were more than one a second.
_SAMPLES = 360

_WORKERS = 2

#: Seconds beyond the drain timeout after which workers must have been replaced.
_REPLACED = 60.0

#: Seconds that clients get to end what they are doing.
_ENDING = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long clients work, and seconds between two restarts of the workers."""

    seconds: float
    restart_every: float

    @property
    def sample_every(self) -> float:
        return max(1.0, self.seconds / _SAMPLES)

    @property
    def warm_up(self) -> float:
        """Seconds of a process that say nothing of what it does for hours."""
        return min(60.0, self.restart_every / 3)

    @property
    def drain_timeout(self) -> float:
        """The gateway's default, where restarts are far enough apart."""
        return min(10.0, self.restart_every / 4)


@dataclass(slots=True, kw_only=True)
class Soak:
    """What there is to tell; `before` and `after` are samples without any client."""

    plan: Plan
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0
    ledger: Ledger = field(default_factory=Ledger)
    samples: list[Sample] = field(default_factory=list)
    before: Sample | None = None
    after: Sample | None = None
    events: dict[str, int] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether nothing was wrong."""
        return not self.ledger.errors


def make_data(folder: Path) -> Data:
    """What clients read, in `folder`."""
    data = Data(
        root=folder,
        big=Pattern(files=4, size=16 * MIB),
        small=Pattern(files=50, size=64 * 1024),
    )
    data.build()
    return data


def soak(plan: Plan, *, data: Data, folder: Path) -> Soak:
    """Let clients work on a gateway of their own, made in `folder`."""
    result = Soak(plan=plan)
    log_folder = folder / "log"
    log_folder.mkdir(parents=True)
    options = {
        "access_log__file": str(log_folder / "access.jsonl"),
        "access_log__stdout": False,
        "workers": _WORKERS,
        "drain_timeout": plan.drain_timeout,
    }
    bed = Bed(folder=folder / "bed", data=data.root, options=options)
    with bed.running(lifetime=plan.seconds + 10 * PATIENCE) as server:
        log = Log(log_folder / "access.jsonl")
        if not poll(lambda: len(log.read()) == _WORKERS):
            raise RuntimeError(f"{len(log.workers)} workers are in the log")
        course = _Course(result, bed, server.pid, log)
        result.before = course.sample()
        with _mounted(bed) as (reads, files):
            clients = Clients(
                bed=bed,
                data=data,
                ledger=result.ledger,
                reads=reads.at,
                files=files.at,
                folder=folder / "clients",
            )
            with _working(clients, result.ledger):
                course.run(reads, files)
        course.come_to_rest()
    return result


@contextlib.contextmanager
def _mounted(bed: Bed) -> Iterator[tuple[Mount, Mount]]:
    """Two mounts that come back by themselves; no cache of the kernel's answers for the gateway."""
    flags = ("reconnect", "direct_io", "dir_cache=no")
    with bed.mounted(*flags, name="reads") as reads, bed.mounted(*flags, name="files") as files:
        yield reads, files


@contextlib.contextmanager
def _working(clients: Clients, ledger: Ledger) -> Iterator[None]:
    """All clients work while the block runs, each in a thread."""
    threads = [
        threading.Thread(target=_repeat, args=(ledger, *each), name=each[0], daemon=True)
        for each in clients.all()
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ledger.stopping.set()
        deadline = ledger.clock() + _ENDING
        for thread in threads:
            thread.join(max(0.0, deadline - ledger.clock()))
            if thread.is_alive():
                ledger.problem(f"{thread.name}: does not come to its end")
        ledger.end_programs()  # who reads a mount gets an error when it goes


def _repeat(ledger: Ledger, kind: str, work: Callable[[], None], pause: float) -> None:
    while not ledger.stopping.is_set():
        before = ledger.failures
        with ledger.operation(kind):
            work()
        # Who only fails, while a mount is coming back for instance, is to do so slowly.
        ledger.stopping.wait(max(pause, 0.5 if ledger.failures > before else 0.0))


class _Course:
    """What the main thread does meanwhile: restarts, samples, and a look at whether all live."""

    def __init__(self, result: Soak, bed: Bed, gateway: int, log: Log) -> None:
        self._result, self._bed, self._gateway, self._log = result, bed, gateway, log
        self._family = Family(bed, gateway, log)
        self._ledger = result.ledger
        self._began = self._ledger.clock()
        self._old: set[int] = set()

    def run(self, *mounts: Mount) -> None:
        """Until the time is over, or a client hangs, or a mount is gone for good."""
        plan, ledger = self._result.plan, self._ledger
        self._began = ledger.clock()
        next_restart = plan.restart_every
        try:
            while (at := ledger.clock() - self._began) < plan.seconds:
                self._look()
                if at >= next_restart and not ledger.restarting:
                    next_restart += plan.restart_every
                    self._restart()
                if self._gone(mounts) or ledger.hanging():
                    return
                spent = ledger.clock() - self._began - at
                ledger.stopping.wait(max(0.05, plan.sample_every - spent))
        finally:
            self._result.seconds = ledger.clock() - self._began

    def _gone(self, mounts: Sequence[Mount]) -> bool:
        ended = [each.sshfs.returncode for each in mounts if each.sshfs.poll() is not None]
        for status in ended:
            self._ledger.problem(f"sshfs ended with {status}")
        return bool(ended)

    def _look(self) -> None:
        self._have_ended()
        if self._ledger.overdue(self._result.plan.drain_timeout + _REPLACED):
            self._ledger.problem("workers were not replaced in time")
            self._ledger.restart_ended()
        with self._ledger.operation("looks at metrics"):
            self._result.samples.append(self.sample())
        if len(self._result.samples) % 60 == 0:
            self._say()

    def _have_ended(self) -> bool:
        """Whether workers that were to be replaced are gone, by the log."""
        self._log.read()
        if self._ledger.restarting and not self._old & self._log.alive:
            self._ledger.restart_ended()
        return not self._ledger.restarting

    def _say(self) -> None:
        last, ledger = self._result.samples[-1], self._ledger
        print(
            f"{last.at / 60:.0f} min: {last.memory().anonymous / 1024:.1f} MiB anonymous,"
            f" {last.descriptors()} descriptors, {ledger.verified / 1024 / MIB:.1f} GiB verified,"
            f" {ledger.errors} errors",
            file=sys.stderr,
            flush=True,
        )

    def _restart(self) -> None:
        self._old = self._log.alive
        self._ledger.restart_began()
        os.kill(self._gateway, signal.SIGUSR1)

    def sample(self) -> Sample:
        """The gateway now."""
        ledger = self._ledger
        return self._family.sample(
            at=ledger.clock() - self._began,
            errors=ledger.errors,
            restarting=ledger.restarting,
        )

    def come_to_rest(self) -> None:
        """Without clients nothing may be left open; and what was sent is no less than what came."""
        ledger, bed, result = self._ledger, self._bed, self._result
        at_rest = "sftp_gateway_sessions", "sftp_gateway_open_handles"
        if not poll(lambda: not any(bed.metric(name) for name in at_rest)):
            ledger.problem("sessions or handles are left without any client")
        if not poll(self._have_ended):
            ledger.problem("workers were not replaced in time")
        result.after = self.sample()
        if not poll(lambda: bed.bytes_sent() >= ledger.verified):
            ledger.problem(f"only {bed.bytes_sent()} bytes came from the gateway")
        for words in self._log.unexpected:
            ledger.problem(words)
        result.events = dict(sorted(self._log.events.items()))
