"""Floods a gateway while another user works on it, and measures what that user is left with.

Three processes beside the gateway's: an attacker, a victim (stock `ssh`), and this one, which asks
through the victim and watches. Both clients are served by the one worker there is.

What is asserted is work, and not time: how much processor time the worker spends between a request
of the victim and its answer, in units of what one such request costs it when all is quiet. That
does not depend on how fast the machine is, nor on how busy.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import family, memory
from tests.support.floods.attacker import Attacker, Report
from tests.support.floods.kinds import Kind
from tests.support.floods.message import Login
from tests.support.floods.sftp import FILES
from tests.support.floods.victim import Victim, VictimError
from tests.support.gateway import Gateway, fill, wait_for
from tests.support.keys import make_key, public_line

#: What a worker may do between a request of one client and its answer, for all others there are, in
#: requests of that client's which it could have served instead.
MAX_WORK_BETWEEN = 300

#: KiB that one client may have the gateway hold: what its sessions may (docs/security.md), and
#: what the allocator makes of it.
MAX_CLIENT_MEMORY = 36 * 1024

#: KiB by which all processes may have grown behind all floods: Python does not give back all, nor
#: do the threads that have computed checksums.
MAX_GROWTH = 48 * 1024

#: How often a flood is tried at the most. Once a machine that is busy elsewhere may be late with
#: the victim; what the gateway itself does, it does again.
ATTEMPTS = 3

#: A hash of nobody's password that takes as long as the default ones do, and less memory.
_PASSWORD_HASH = "$argon2id$v=19$m=4096,t=16,p=1$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43

#: Requests of the victim in a row, of little cost, after which there is nothing left to be done
#: for the attacker; and how many times as much as usual is little.
_QUIET_REQUESTS, _QUIET_FACTOR = 20, 5

#: Seconds in which a worker's idleness shows, and after which it is no longer waited for.
_IDLE_PAUSE, _TIMEOUT = 0.002, 10.0

#: Looks at an attack, each behind so many quiet requests, until one that is taken slowly is left.
_MAX_REPORTS = 50

#: Turns of a message in the first burst, and how many times more there are in the next at most.
_FIRST_BURST, _MAX_BURST_GROWTH = 8, 64

#: Requests of the victim to find out what one costs.
_SAMPLES = 500

_HEALTH_INTERVAL = 0.25

#: Characters that are shown of what the server says at the end.
_MAX_REASON = 60


class _FloodedGateway(Gateway):
    """One worker, and three users: of the victim, of the attacker, and one who has a password."""

    def __init__(self, folder: Path, *, renews_keys: bool = False) -> None:
        share = folder / "data/share"
        fill(share, FILES)
        users = "".join(f'[users.{name}]\nshares = ["share"]\n' for name in ("victim", "attacker"))
        config = f"""
            workers = 1
            {"rekey_limit = 1048576" if renews_keys else ""}
            [shares.share]
            path = "{share}"
            {users}
            [users.password_user]
            shares = ["share"]
            password_hash = "{_PASSWORD_HASH}"
        """
        super().__init__(folder, config)
        self.keys = {}
        for user in ("victim", "attacker"):
            self.keys[user] = make_key(folder / user, "ed25519")
            self.authorize(user, public_line(self.keys[user]))

    @property
    def worker(self) -> int:
        return int(self.events("worker_started")[-1]["pid"])


@dataclass(frozen=True, slots=True)
class Processors:
    """Where who runs: `attacker` also has the gateway's other processes, `victim` this one."""

    worker: frozenset[int]
    attacker: frozenset[int]
    victim: frozenset[int]

    @classmethod
    def available(cls) -> Processors:
        """The first for the worker, and all others of this process for everybody else."""
        first, *others = sorted(os.sched_getaffinity(0))
        if not others:
            raise RuntimeError("latencies are measured on two processors or more")
        return cls(frozenset([first]), frozenset(others), frozenset(others))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a flood.

    `max_work_between` is what the worker did between a request of the victim and its answer, at the
    most, and `work` what it did for the attacker in all: in requests of the victim's that it could
    have served instead. `memory` is KiB by which all processes grew at their peaks; `latencies` are
    the victim's, in seconds.
    """

    kind: Kind
    max_work_between: float = 0.0
    work: float = 0.0
    memory: int = 0
    packets: int = 0
    sent: int = 0
    outcome: str = ""
    reached: bool = True
    crashed: bool = False
    latencies: Sequence[float] = ()

    def complaints(self) -> Iterator[str]:
        """What is not as it has to be."""
        if not self.reached:
            yield self.outcome
        if self.crashed:
            yield "an error that nobody handles"
        if self.max_work_between > MAX_WORK_BETWEEN:
            yield f"the victim waits while {self.max_work_between:,.0f} requests could be served"
        if self.memory > MAX_CLIENT_MEMORY:
            yield f"{self.memory:,} KiB of memory"


@dataclass(slots=True)
class _Observations:
    """What was seen while the victim worked: processor time of the worker, and latencies."""

    spent: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


class Arena:
    """A gateway, a victim that works on it, and an attacker's process."""

    def __init__(self, gateway: _FloodedGateway, processors: Processors | None) -> None:
        self.gateway = gateway
        self.unhealthy: list[str] = []
        self.broken = False
        self._login = Login(gateway.port, gateway.keys["attacker"])
        self._worker = gateway.worker
        self._clock = _cpu_clock(self._worker)
        self._victim = Victim(gateway, gateway.keys["victim"])
        if processors:
            _make_realtime(self._victim.pid)
        self._attacker = Attacker(yielding_on=processors.attacker if processors else None)
        self._over = threading.Event()
        self._health = threading.Thread(target=self._watch_health)
        self._health.start()
        self.cost = 0.0
        self.measure_quiet()
        self._resting = memory(gateway.pids[0]).anonymous

    def close(self) -> None:
        """End both clients."""
        self._over.set()
        self._health.join()
        self._attacker.close()
        self._victim.close()

    def flood_with_retries(
        self, kind: Kind, *, work: float, packets: int, least: int = 0
    ) -> Result:
        """As `flood`, but again where it is not sure that the gateway was the reason."""
        for _ in range(ATTEMPTS):
            try:
                result = self.flood(kind, work=work, packets=packets, least=least)
            except (VictimError, EOFError, ConnectionError):
                self.broken = True
                raise
            if not MAX_WORK_BETWEEN < result.max_work_between < 10 * MAX_WORK_BETWEEN:
                break
        return result

    def flood(self, kind: Kind, *, work: float, packets: int, least: int = 0) -> Result:
        """Flood until `work` is done or `packets` are sent, or nothing more comes of it.

        `least` is how often the victim asks at least. Raises VictimError if it is not served.
        """
        members = family(self.gateway.pids[0])
        before = sum(map(_reset_peak, members))
        errors = self.gateway.folder / "stderr.log"
        said = errors.stat().st_size
        if reason := self._attacker.reach(kind, self._login):
            return Result(kind=kind, reached=False, outcome=f"not reached: {reason}")
        observed = _Observations()
        report = self._attack(observed, work, packets)
        enough = self._work(observed) >= work
        self._attacker.end_connection()
        self._ask_until_quiet(observed)
        while len(observed.spent) < least:
            self._ask(observed)
        return Result(
            kind=kind,
            max_work_between=max(observed.spent) / self.cost,
            work=self._work(observed),
            memory=sum(map(_peak, members)) - before,
            packets=report.packets,
            sent=report.sent,
            outcome=_outcome(report, self._attacker.disconnect_reason(), enough=enough),
            crashed=b"Traceback" in _tail(errors, said),
            latencies=sorted(observed.latencies),
        )

    def measure_quiet(self, samples: int = _SAMPLES) -> Sequence[float]:
        """The victim's latencies while nobody else is there; what a request costs comes of it."""
        observed = _Observations()
        for _ in range(samples):
            self._ask(observed)
        self.cost = statistics.median(observed.spent)
        return sorted(observed.latencies)

    def harm(self) -> Iterator[str]:
        """What is not as before all floods, once the attacker is gone."""
        for name in ("sftp_gateway_connections", "sftp_gateway_open_handles"):
            only_the_victims = functools.partial(self._is_one, name)
            with contextlib.suppress(AssertionError):
                wait_for(only_the_victims, "the attacker's to end")
            if not only_the_victims():
                yield f"{name} is {self.gateway.metric(name):.0f}"
        if [event["pid"] for event in self.gateway.events("worker_started")] != [self._worker]:
            yield "another worker was started"
        if self.unhealthy:
            yield f"/healthz, {len(self.unhealthy)} times: {self.unhealthy[0]}"
        with contextlib.suppress(AssertionError):
            wait_for(lambda: self._growth() <= MAX_GROWTH, "free memory to be given back")
        if self._growth() > MAX_GROWTH:
            yield f"{self._growth():,} KiB more than before"

    def _growth(self) -> int:
        return memory(self.gateway.pids[0]).anonymous - self._resting

    def _is_one(self, name: str) -> bool:
        return self.gateway.metric(name) == 1

    def _attack(self, observed: _Observations, work: float, packets: int) -> Report:
        """Bursts that become longer, until one of them was enough."""
        turns = _FIRST_BURST
        while True:
            more = self._attacker.burst(turns)
            report = self._watch(observed, work=work)
            done, left = self._work(observed), packets - report.packets
            if report.ended or report.unread or not more or done >= work or left <= 0:
                return report
            turns = min(left, int(turns * min(_MAX_BURST_GROWTH, max(2, work / max(done, 1)))))

    def _watch(self, observed: _Observations, *, work: float) -> Report:
        """Let the victim work until there is nothing to be done for the attacker any more."""
        report: Report | None = None
        for _ in range(_MAX_REPORTS):
            before, report = report, self._attacker.report()
            same = before is not None and before.unread == report.unread
            if (report.begun and (same or not report.unread)) or self._work(observed) >= work:
                break
            self._ask_until_quiet(observed, work)
        assert report is not None
        return report

    def _ask_until_quiet(self, observed: _Observations, work: float = float("inf")) -> None:
        quiet = 0
        deadline = time.monotonic() + _TIMEOUT
        while self._work(observed) < work and time.monotonic() < deadline:
            self._ask(observed)
            quiet = quiet + 1 if observed.spent[-1] < _QUIET_FACTOR * self.cost else 0
            if quiet >= _QUIET_REQUESTS and self._is_idle():
                break

    def _is_idle(self) -> bool:
        """Whether the worker does nothing, also not on another thread, while nobody asks it."""
        worked = time.clock_gettime(self._clock)
        time.sleep(_IDLE_PAUSE)
        return time.clock_gettime(self._clock) - worked < _IDLE_PAUSE / 4

    def _ask(self, observed: _Observations) -> None:
        worked, started = time.clock_gettime(self._clock), time.perf_counter()
        self._victim.ask()
        observed.latencies.append(time.perf_counter() - started)
        observed.spent.append(time.clock_gettime(self._clock) - worked)

    def _work(self, observed: _Observations) -> float:
        """What was done beside the victim's requests."""
        return sum(observed.spent) / self.cost - len(observed.spent)

    def _watch_health(self) -> None:
        while not self._over.wait(_HEALTH_INTERVAL):
            try:
                status, said = self.gateway.http("/healthz")
            except OSError as error:
                status, said = 0, str(error)
            if status != 200:
                self.unhealthy.append(f"{status} {said.strip()}")


@contextlib.contextmanager
def flooded(
    folder: Path, *, renews_keys: bool = False, processors: Processors | None = None
) -> Iterator[Arena]:
    """An arena with a gateway of its own in `folder`.

    `processors`: everybody stays on theirs, and the attacker runs only when nobody else wants to.
    Otherwise latencies depend on when the kernel schedules whom.
    """
    gateway = _FloodedGateway(folder, renews_keys=renews_keys)
    try:
        if processors:
            os.sched_setaffinity(0, processors.worker | processors.attacker)
        gateway.start()
        if processors:
            _pin(gateway, processors)
        arena = Arena(gateway, processors)
        try:
            yield arena
        finally:
            arena.close()
    finally:
        gateway.close()


def _pin(gateway: _FloodedGateway, processors: Processors) -> None:
    for pid in family(gateway.pids[0]):
        for thread in os.listdir(f"/proc/{pid}/task"):
            allowed = processors.worker if pid == gateway.worker else processors.attacker
            os.sched_setaffinity(int(thread), allowed)
    os.sched_setaffinity(0, processors.victim)
    _make_realtime(0)


def _make_realtime(pid: int) -> None:
    """Let a process of the victim's run as soon as it can, before all others of its processor.

    What is measured is how long the worker lets it wait. Those that it starts are not urgent.
    """
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    os.sched_setscheduler(pid, policy, os.sched_param(1))


def _cpu_clock(pid: int) -> int:
    """The clock of a process's processor time, as clock_getcpuclockid(3) makes it."""
    return (~pid << 3) | 2


def _reset_peak(pid: int) -> int:
    """Let the peak of a process's memory begin now (proc(5), clear_refs); KiB that it has."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _peak(pid)


def _peak(pid: int) -> int:
    """KiB that a process had at the most since then; 0 if it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def _tail(log: Path, start: int) -> bytes:
    with open(log, "rb") as file:
        file.seek(start)
        return file.read()


def _outcome(report: Report, reason: str, *, enough: bool) -> str:
    if report.ended:
        return f"ended: {reason[:_MAX_REASON]}" if reason else "ended"
    if enough:
        return "work limit reached"
    return f"throttled, {report.unread:,} bytes unread" if report.unread else "read"
