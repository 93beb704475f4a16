"""Runs workloads against peers, round after round, on data of its own in a temporary folder."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.clients import Clients
from benchmarks.data import QUICK, Data, Sizes
from benchmarks.machine import load_average, machine, versions
from benchmarks.peers import Keys, Peer
from benchmarks.report import Measured, Run
from benchmarks.server import running
from benchmarks.workloads import Stage, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. `folder` is where the temporary folder is made; None: where the system says."""

    peers: Sequence[type[Peer]]
    workloads: Sequence[Workload]
    rounds: int
    quick: bool
    folder: Path | None


def run(plan: Plan, say: Callable[[str], None]) -> Run:
    """Measure. `say` is told of the progress.

    Raises RuntimeError, AssertionError, OSError and CalledProcessError where something fails:
    numbers of a run that did not do its work are worse than none.
    """
    known_versions = versions()
    with tempfile.TemporaryDirectory(prefix="sftp-bench-", dir=plan.folder) as folder:
        sizes = QUICK if plan.quick else Sizes()
        contest = _prepare(plan, Path(folder), sizes, say)
        facts = {peer.name: contest.admit(peer) for peer in contest.peers}
        loads = [load_average()]
        for number in range(plan.rounds):
            for workload in plan.workloads:
                say(f"round {number + 1} of {plan.rounds}: {workload.name}")
                contest.measure(workload)
            loads.append(load_average())
    return Run(
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        quick=plan.quick,
        sizes=sizes,
        machine=machine(),
        versions=known_versions,
        load_averages=loads,
        peers=facts,
        workloads=plan.workloads,
        measured=contest.measured,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contest:
    """The peers, each with its clients, and what was measured of them so far."""

    peers: Sequence[Peer]
    clients: Mapping[str, Clients]
    data: Data
    measured: Measured = field(default_factory=dict)

    def admit(self, peer: Peer) -> dict[str, str]:
        """See that the peer serves the right bytes; what the results say of it."""
        clients = self.clients[peer.name]
        with running(peer):
            cipher = clients.cipher()
            with clients.mounted() as at:
                for name in ("big.bin", self.data.small_names[-1]):
                    subprocess.run(["cmp", at / name, self.data.root / name], check=True)
        return {"setup": peer.setup, "cipher": cipher}

    def measure(self, workload: Workload) -> None:
        """One round: each peer in turn, with a server that was just started."""
        for peer in self.peers:
            self.data.warm()
            with running(peer) as server:
                stage = Stage(server=server, clients=self.clients[peer.name], data=self.data)
                for metric, value in workload.run(stage).items():
                    by_peer = self.measured.setdefault(metric, {})
                    by_peer.setdefault(peer.name, []).append(value)


def _prepare(plan: Plan, folder: Path, sizes: Sizes, say: Callable[[str], None]) -> _Contest:
    say("making the data")
    data = Data(folder / "data", sizes)
    data.build()
    keys = Keys(_make_key(folder / "host_key"), _make_key(folder / "client_key"))
    peers = [make(folder=folder / make.name, data=data.root, keys=keys) for make in plan.peers]
    for peer in peers:
        peer.prepare()
    clients = {peer.name: Clients(peer, folder / f"clients-of-{peer.name}") for peer in peers}
    return _Contest(peers=peers, clients=clients, data=data)


def _make_key(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "benchmark", "-f", str(path)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    return path
