"""Floods a gateway while another user works on it, and measures the effect on that user.

Three processes beside the gateway's: an attacker, a victim (stock `ssh`), and this one, which sends
requests through the victim and measures. One worker serves both clients.

Assertions are about work, not time: the processor time that the worker spends between a request of
the victim and its reply, in units of the cost of such a request without a flood. This does not
depend on the machine's speed or load.
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

from benchmarks.processes import cpu_clock, family, memory
from tests.support.floods.attacker import Attacker, Report
from tests.support.floods.kinds import Kind
from tests.support.floods.message import Login
from tests.support.floods.sftp import FILES
from tests.support.floods.victim import Victim, VictimError
from tests.support.gateway import Gateway, fill, wait_for
from tests.support.keys import make_key, public_line

#: The most work that a worker may do for others between a request and its reply, in such requests
#: that it could have served instead.
MAX_WORK_BETWEEN = 300

#: KiB that the gateway may hold for one client: its sessions' bounds (docs/security.md) plus the
#: allocator's overhead.
MAX_CLIENT_MEMORY = 36 * 1024

#: KiB by which all processes may have grown after all floods: Python and the checksum threads do
#: not free everything.
MAX_GROWTH = 48 * 1024

#: Attempts at a flood: load of the machine delays the victim once, a fault of the gateway always.
ATTEMPTS = 3

#: An unmatchable password hash as slow as the default, with less memory.
_PASSWORD_HASH = "$argon2id$v=19$m=4096,t=16,p=1$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43

#: Consecutive cheap requests of the victim after which no work is left for the attacker; and the
#: factor over the quiet cost up to which a request is cheap.
_QUIET_REQUESTS, _QUIET_FACTOR = 20, 5

#: Seconds to sample a worker's idleness, and to wait for it.
_IDLE_PAUSE, _TIMEOUT = 0.002, 10.0

#: Reports of an attack, each after a quiet run, before a slowly read one is abandoned.
_MAX_REPORTS = 50

#: Messages in the first burst, and the greatest growth factor of the next.
_FIRST_BURST, _MAX_BURST_GROWTH = 8, 64

#: Requests of the victim that measure the cost of one.
_SAMPLES = 500

_HEALTH_INTERVAL = 0.25

#: Characters shown of the server's disconnect reason.
_MAX_REASON = 60


class _FloodedGateway(Gateway):
    """One worker, and three users: the victim, the attacker, and one with a password."""

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
    """CPU sets. The gateway's other processes run on `attacker`, this process on `victim`."""

    worker: frozenset[int]
    attacker: frozenset[int]
    victim: frozenset[int]

    @classmethod
    def available(cls) -> Processors:
        """The first for the worker, all others for both clients."""
        first, *others = sorted(os.sched_getaffinity(0))
        if not others:
            raise RuntimeError("at least two processors are needed to measure latencies")
        return cls(frozenset([first]), frozenset(others), frozenset(others))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a flood.

    `max_work_between` is the most that the worker did between a request of the victim and its
    reply, and `work` what it did for the attacker in total, both in requests of the victim.
    `memory` is the peak growth of all processes in KiB; `latencies` are the victim's, in seconds.
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
        """The limits that were exceeded."""
        if not self.reached:
            yield self.outcome
        if self.crashed:
            yield "unhandled exception"
        if self.max_work_between > MAX_WORK_BETWEEN:
            yield f"the victim waits for the work of {self.max_work_between:,.0f} requests"
        if self.memory > MAX_CLIENT_MEMORY:
            yield f"{self.memory:,} KiB of memory"


@dataclass(slots=True)
class _Observations:
    """The worker's processor time and the latency, for each request of the victim."""

    spent: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


class Arena:
    """A gateway, a victim that works on it, and an attacker process."""

    def __init__(self, gateway: _FloodedGateway, processors: Processors | None) -> None:
        self.gateway = gateway
        self.unhealthy: list[str] = []
        self.broken = False
        self._login = Login(gateway.port, gateway.keys["attacker"])
        self._worker = gateway.worker
        self._clock = cpu_clock(self._worker)
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
        """As `flood`, but retried if load of the machine may explain the result."""
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
        """Flood until `work` is done, `packets` are sent, or the flood has no further effect.

        The victim sends at least `least` requests. Raises VictimError if it is not served.
        """
        members = family(self.gateway.pids[0])
        before = sum(map(_reset_peak, members))
        errors = self.gateway.folder / "stderr.log"
        log_start = errors.stat().st_size
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
            crashed=b"Traceback" in _tail(errors, log_start),
            latencies=sorted(observed.latencies),
        )

    def measure_quiet(self, samples: int = _SAMPLES) -> Sequence[float]:
        """The victim's latencies without a flood; sets the cost of a request."""
        observed = _Observations()
        for _ in range(samples):
            self._ask(observed)
        self.cost = statistics.median(observed.spent)
        return sorted(observed.latencies)

    def harm(self) -> Iterator[str]:
        """Lasting damage, once the attacker has disconnected."""
        for name in ("sftp_gateway_connections", "sftp_gateway_open_handles"):
            only_the_victims = functools.partial(self._is_one, name)
            with contextlib.suppress(AssertionError):
                wait_for(only_the_victims, "the attacker's sessions to end")
            if not only_the_victims():
                yield f"{name} is {self.gateway.metric(name):.0f}"
        if [event["pid"] for event in self.gateway.events("worker_started")] != [self._worker]:
            yield "another worker was started"
        if self.unhealthy:
            yield f"/healthz, {len(self.unhealthy)} times: {self.unhealthy[0]}"
        with contextlib.suppress(AssertionError):
            wait_for(lambda: self._growth() <= MAX_GROWTH, "free memory to be returned")
        if self._growth() > MAX_GROWTH:
            yield f"{self._growth():,} KiB more than before"

    def _growth(self) -> int:
        return memory(self.gateway.pids[0]).anonymous - self._resting

    def _is_one(self, name: str) -> bool:
        return self.gateway.metric(name) == 1

    def _attack(self, observed: _Observations, work: float, packets: int) -> Report:
        """Send growing bursts until one reaches a limit."""
        turns = _FIRST_BURST
        while True:
            more = self._attacker.burst(turns)
            report = self._watch(observed, work=work)
            done, left = self._work(observed), packets - report.packets
            if report.ended or report.unread or not more or done >= work or left <= 0:
                return report
            turns = min(left, int(turns * min(_MAX_BURST_GROWTH, max(2, work / max(done, 1)))))

    def _watch(self, observed: _Observations, *, work: float) -> Report:
        """Let the victim work until no work is left for the attacker."""
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
        """Whether all threads of the worker are idle."""
        worked = time.clock_gettime(self._clock)
        time.sleep(_IDLE_PAUSE)
        return time.clock_gettime(self._clock) - worked < _IDLE_PAUSE / 4

    def _ask(self, observed: _Observations) -> None:
        worked, started = time.clock_gettime(self._clock), time.perf_counter()
        self._victim.ask()
        observed.latencies.append(time.perf_counter() - started)
        observed.spent.append(time.clock_gettime(self._clock) - worked)

    def _work(self, observed: _Observations) -> float:
        """Work beside the victim's requests."""
        return sum(observed.spent) / self.cost - len(observed.spent)

    def _watch_health(self) -> None:
        while not self._over.wait(_HEALTH_INTERVAL):
            try:
                status, body = self.gateway.http("/healthz")
            except OSError as error:
                status, body = 0, str(error)
            if status != 200:
                self.unhealthy.append(f"{status} {body.strip()}")


@contextlib.contextmanager
def flooded(
    folder: Path, *, renews_keys: bool = False, processors: Processors | None = None
) -> Iterator[Arena]:
    """An arena with its own gateway in `folder`.

    With `processors`, each process is pinned and the attacker runs at idle priority, so that
    latencies do not depend on the kernel's scheduling.
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
    """Give a process real-time priority, so that only the worker makes it wait.

    Its children have normal priority. Where the control group allows no real-time scheduling
    (`cpu.rt_runtime_us`), the process gets nice value -19 instead.
    """
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(pid, policy, os.sched_param(1))
    except PermissionError:
        os.setpriority(os.PRIO_PROCESS, pid, -19)


def _reset_peak(pid: int) -> int:
    """Reset a process's peak memory (proc(5), clear_refs); returns its current KiB."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _peak(pid)


def _peak(pid: int) -> int:
    """Peak KiB of a process since the reset; 0 if it has ended."""
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
