"""Runs workloads against peers, round after round, on data of its own in a temporary folder."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import delay, pagecache
from benchmarks.bed import make_key
from benchmarks.clients import Clients
from benchmarks.data import QUICK, Data, Sizes
from benchmarks.machine import load_average, machine, versions
from benchmarks.peers import BASELINE, Keys, Peer
from benchmarks.report import Failure, Measurement, Run
from benchmarks.server import running
from benchmarks.workloads import Stage, Workload

#: Rounds of peers that only stand beside: their numbers are for orientation.
_OTHERS_ROUNDS = 3

#: A peer that failed in a workload so often is not asked again.
_CHANCES = 2

#: What a workload raises when it does not get through.
_FAILURES = (RuntimeError, AssertionError, OSError, subprocess.SubprocessError)

#: Maximum length of an error in the results.
_ERROR_LENGTH = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. `folder` is where the temporary folder is made; None: where the system says."""

    peers: Sequence[type[Peer]]
    workloads: Sequence[Workload]
    rounds: int
    quick: bool
    folder: Path | None


def run(plan: Plan, say: Callable[[str], None]) -> Run:
    """Measure; `say` gets progress messages.

    The failure of a peer is recorded; the results of the others are kept.
    """
    started = time.monotonic()
    left_out = {peer.name: why for peer in plan.peers if (why := peer.missing())}
    with tempfile.TemporaryDirectory(prefix="sftp-bench-", dir=plan.folder) as folder:
        sizes = QUICK if plan.quick else Sizes()
        contest = _prepare(plan, Path(folder), sizes, say)
        facts = {peer.name: told for peer in contest.peers if (told := contest.admit(peer))}
        far = any(workload.name == "far" for workload in plan.workloads)
        link = asdict(delay.check()) if far else None
        loads = [load_average()]
        for number in range(1, plan.rounds + 1):
            for workload in plan.workloads:
                say(f"round {number} of {plan.rounds}: {workload.name}")
                contest.measure(workload, number, [*facts])
            loads.append(load_average())
    return Run(
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        minutes=round((time.monotonic() - started) / 60, 1),
        quick=plan.quick,
        baseline=BASELINE,
        sizes=asdict(sizes),
        machine=machine(),
        versions=versions(),
        load_averages=loads,
        link=link,
        peers=facts,
        left_out=left_out,
        failures=contest.failures,
        measurements=[*contest.measured.values()],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contest:
    """The peers, each with its clients, and what was measured of them so far."""

    peers: Sequence[Peer]
    clients: Mapping[str, Clients]
    data: Data
    measured: Mapping[str, Measurement]
    say: Callable[[str], None]
    failures: list[Failure] = field(default_factory=list)

    def admit(self, peer: Peer) -> dict[str, str] | None:
        """See that the peer serves the right bytes; what the results say of it."""
        clients = self.clients[peer.name]
        try:
            with running(peer):
                cipher = clients.cipher()
                with clients.mounted() as at:
                    for name in ("big.bin", self.data.part_names[-1], self.data.small_names[-1]):
                        subprocess.run(["cmp", at / name, self.data.root / name], check=True)
        except _FAILURES as error:
            self._fail(peer, "admission", 0, error)
            return None
        return {"setup": peer.setup, "cipher": cipher}

    def measure(self, workload: Workload, number: int, admitted: Sequence[str]) -> None:
        """One round: each peer in turn, with a server that was just started."""
        failed = Counter(each.peer for each in self.failures if each.workload == workload.name)
        # Who goes first goes last in the next round.
        for peer in self.peers if number % 2 else reversed(self.peers):
            if not (peer.main or workload.for_all) or peer.name not in admitted:
                continue
            found: Mapping[str, float] = {}
            if failed[peer.name] < _CHANCES and (peer.main or number <= _OTHERS_ROUNDS):
                try:
                    found = self._stage(workload, peer)
                except _FAILURES as error:
                    self._fail(peer, workload.name, number, error)
            for metric in workload.metrics:
                rounds = self.measured[metric.name].peers.setdefault(peer.name, [])
                rounds.append(found.get(metric.name))

    def _stage(self, workload: Workload, peer: Peer) -> Mapping[str, float]:
        self.data.warm()
        # As much as a client's page cache takes in any workload, and some more.
        pagecache.touch_free_memory(self.data.sizes.big_bytes * 5 // 4)
        with running(peer) as server:
            clients = self.clients[peer.name]
            return workload.run(Stage(server=server, clients=clients, data=self.data))

    def _fail(self, peer: Peer, workload: str, number: int, error: Exception) -> None:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:_ERROR_LENGTH]
        self.say(f"{peer.name} failed in {workload}: {said}")
        self.failures.append(Failure(peer.name, workload, number, said))


def make_keys(folder: Path) -> Keys:
    """New keys of host and client in that folder."""
    return Keys(make_key(folder / "host_key"), make_key(folder / "client_key"))


def _prepare(plan: Plan, folder: Path, sizes: Sizes, say: Callable[[str], None]) -> _Contest:
    say("making the data")
    data = Data(folder / "data", sizes)
    data.build()
    keys = make_keys(folder)
    peers = [
        make(folder=folder / make.name, data=data.root, keys=keys)
        for make in plan.peers
        if make.missing() is None
    ]
    for peer in peers:
        peer.prepare()
    clients = {peer.name: Clients(peer, folder / f"clients-of-{peer.name}") for peer in peers}
    measured = {
        metric.name: Measurement(workload=workload.name, metric=metric)
        for workload in plan.workloads
        for metric in workload.metrics
    }
    return _Contest(peers=peers, clients=clients, data=data, measured=measured, say=say)
