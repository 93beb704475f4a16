"""`python -m benchmarks requests`: what one request of each kind costs a server.

All servers run at the same time, each with one session of `ssh -s sftp`, and are asked in turn:
A, B, C in one round, and C, B, A in the next. Only the one that is asked has anything to do. Its
processor time is that of all its processes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from benchmarks import processes
from benchmarks.checkout import checkout
from benchmarks.clients import Clients
from benchmarks.data import Data, Sizes
from benchmarks.machine import machine, versions
from benchmarks.markdown import cell, measured_on, number, table
from benchmarks.peers import GATEWAY, Peer, gateway_before, program
from benchmarks.peers.gateway import Gateway
from benchmarks.peers.openssh import OpenSsh, OpenSshGcm
from benchmarks.raw_sftp import RawSftp
from benchmarks.report import Spread
from benchmarks.runner import make_keys
from benchmarks.server import PATIENCE, running

_SIZES: Final = Sizes(big_bytes=64 * 2**20, parts=0, small_files=500, folders=20, random_reads=4000)

#: Seconds between two looks at whether a server still works, and after which it is measured anyway.
_LOOK, _RESTLESS = 0.002, 0.1

#: Seconds for which a server is asked at most.
_LIFETIME: Final = 600.0

#: How often one request is asked for its pages: the least counts, since a server also does
#: something by the clock.
_PAGE_TRIES = 7


class _Session:
    """A session with one server; each method asks `number` times and returns the requests made."""

    def __init__(self, peer: Peer, raw: RawSftp, data: Data) -> None:
        self._raw = raw
        self._size = data.sizes.small_bytes
        self._big = raw.open(peer.remote_path("big.bin").encode())
        self._offsets = itertools.cycle(data.random_offsets())
        self._names = itertools.cycle(
            [peer.remote_path(name).encode() for name in data.small_names]
        )
        folders = (f"tree/{number:03}" for number in range(data.sizes.folders))
        self._folders = itertools.cycle([peer.remote_path(name).encode() for name in folders])

    def read(self, number: int) -> int:
        for _ in range(number):
            self._raw.read(self._big, next(self._offsets), 4096)
        return number

    def lstat(self, number: int) -> int:
        for _ in range(number):
            self._raw.lstat(next(self._names))
        return number

    def small_file(self, number: int) -> int:
        for _ in range(number):
            self._raw.read_file(next(self._names), self._size)
        return number

    def walk(self, number: int) -> int:
        return sum(self._raw.read_folder(next(self._folders)) for _ in range(number))


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of request, and how many times in a row `ask` makes it before it is another's turn."""

    title: str
    ask: Callable[[_Session, int], int]
    times: int


_KINDS: Final = (
    _Kind("READ of 4 KiB", _Session.read, 200),
    _Kind("LSTAT", _Session.lstat, 200),
    _Kind("small file", _Session.small_file, 25),
    _Kind("walk, an entry", _Session.walk, 4),
)


@dataclass(slots=True, kw_only=True)
class _Cost:
    """What a kind of request costs one server. Times in µs for one request."""

    #: For each start of the server, a number for each round.
    rounds: list[list[float]] = field(default_factory=list)
    #: Sums over all rounds, for their proportion.
    user: float = 0
    system: float = 0
    system_calls: float | None = None
    pages: int | None = None


class _Sample(NamedTuple):
    """CPU time of one request in µs: by the scheduler's clock, and by ticks."""

    cpu: float
    user: float
    system: float


class _Server:
    """A running server with a session."""

    def __init__(self, *, name: str, pid: int, session: _Session) -> None:
        self.name = name
        self.session = session
        self._members = processes.family(pid)

    def measure(self, kind: _Kind) -> _Sample:
        """Ask `kind.times` times."""
        ticks = processes.user_and_system(self._members)
        before = self._settle()
        number = kind.ask(self.session, kind.times)
        spent = (self._settle() - before) / 1e9
        user, system = processes.user_and_system(self._members)
        each = 1e6 / number
        return _Sample(spent * each, (user - ticks[0]) * each, (system - ticks[1]) * each)

    def system_calls(self, kind: _Kind, folder: Path) -> float | None:
        """System calls for one request, as strace counts them; None if it cannot."""
        report = folder / "strace"
        attach = [f"--attach={pid}" for pid in self._members]
        command = ["strace", "-f", "-c", "-qq", "-o", str(report), *attach]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
            deadline = time.monotonic() + PATIENCE
            while not all(map(processes.traced, self._members)):
                if strace.poll() is not None or time.monotonic() > deadline:
                    return None
                time.sleep(_LOOK)
            number = kind.ask(self.session, kind.times)
            strace.send_signal(signal.SIGINT)
        return int(report.read_text().splitlines()[-1].split()[3]) / number

    def pages(self, kind: _Kind, counter: processes.PageCounter) -> int | None:
        """Pages that one request uses; None if the kernel does not say."""
        try:
            return min(
                counter.count(self._members, lambda: kind.ask(self.session, 1))
                for _ in range(_PAGE_TRIES)
            )
        except PermissionError:
            return None

    def _settle(self) -> int:
        """Wait until the server is idle, because what it does after an answer is part of the
        request's cost; its processor time so far in ns."""
        deadline = time.monotonic() + _RESTLESS
        now = processes.cpu_nanoseconds(self._members)
        while True:
            before = now
            time.sleep(_LOOK)
            now = processes.cpu_nanoseconds(self._members)
            if now == before or time.monotonic() > deadline:
                return now


_Costs = Mapping[str, Mapping[str, _Cost]]


def _run(peers: Sequence[Peer], data: Data, *, starts: int, rounds: int) -> _Costs:
    """The costs by kind of request and peer."""
    costs = {kind.title: {peer.name: _Cost() for peer in peers} for kind in _KINDS}
    for start in range(starts):
        _say(f"start {start + 1} of {starts}")
        data.warm()
        with contextlib.ExitStack() as stack:
            servers = [_serve(peer, data, stack) for peer in peers]
            for cost in (each for by_server in costs.values() for each in by_server.values()):
                cost.rounds.append([])
            for server in servers:
                for kind in _KINDS:
                    kind.ask(server.session, kind.times)
            for turn in range(rounds):
                _measure_round(servers if turn % 2 else servers[::-1], costs)
            if start + 1 == starts:
                counter = processes.PageCounter(stack)
                for kind, server in itertools.product(_KINDS, servers):
                    cost = costs[kind.title][server.name]
                    cost.pages = server.pages(kind, counter)
                    if program("strace"):
                        cost.system_calls = server.system_calls(kind, data.root.parent)
    return costs


def _serve(peer: Peer, data: Data, stack: contextlib.ExitStack) -> _Server:
    server = stack.enter_context(running(peer, lifetime=_LIFETIME))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=peer.folder)))
    clients = Clients(peer, folder / "client")
    raw = RawSftp(clients.ssh_sftp(stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    stack.callback(raw.end)
    session = _Session(peer, raw, data)
    return _Server(name=peer.name, pid=server.pid, session=session)


def _measure_round(servers: Iterable[_Server], costs: _Costs) -> None:
    """Ask all of them in turn."""
    for kind, server in itertools.product(_KINDS, servers):
        sample, cost = server.measure(kind), costs[kind.title][server.name]
        cost.rounds[-1].append(sample.cpu)
        cost.user += sample.user
        cost.system += sample.system


def _ratio(one: _Cost, other: _Cost) -> Spread:
    """Of the CPU times, the median of all starts; that of a start is the median of its rounds."""
    starts = [
        median(a / b for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in zip(one.rounds, other.rounds, strict=True)
    ]
    return Spread.of(starts)


def _cpu(cost: _Cost) -> Spread:
    return Spread.of([median(rounds) for rounds in cost.rounds])


def _rows(costs: _Costs, names: Sequence[str]) -> Iterator[list[str]]:
    others = names[1:]
    yield [
        "request", "server", "CPU, µs", "user", "system", "system calls", "pages",
        f"{GATEWAY} / server",
    ]  # fmt: skip
    for title, by_server in costs.items():
        for name in names:
            cost = by_server[name]
            cpu = _cpu(cost)
            ticks = cost.user + cost.system or 1
            yield [
                title,
                name,
                cell(cpu),
                number(cpu.median * cost.user / ticks),
                number(cpu.median * cost.system / ticks),
                "-" if cost.system_calls is None else number(cost.system_calls),
                "-" if cost.pages is None else number(cost.pages),
                cell(_ratio(by_server[names[0]], cost)) if name in others else "",
            ]


def main(arguments: Sequence[str]) -> int:
    """Measure, print and, if asked to, write."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sftp-bench-", dir=options.folder) as made:
        folder = Path(made)
        chosen: list[type[Peer]] = [Gateway]
        if options.against is not None:
            chosen.append(gateway_before(checkout(options.against, folder / "checkout")))
        chosen += [peer for peer in (OpenSsh, OpenSshGcm) if not options.only_gateway]
        data = Data(folder / "data", _SIZES)
        data.build()
        keys = make_keys(folder)
        peers = [of(folder=folder / of.name, data=data.root, keys=keys) for of in chosen]
        for peer in peers:
            if isinstance(peer, Gateway):
                peer.options = {"SFTP_GATEWAY_WORKERS": "1"}
            peer.prepare()
        costs = _run(peers, data, starts=options.starts, rounds=options.rounds)
    lines = [
        f"# Cost of one request, {datetime.now(UTC):%Y-%m-%dT%H:%M+00:00}",
        "",
        *measured_on(machine(), versions()),
        f"- {options.starts} starts of all servers, each with {options.rounds} rounds; medians, "
        "in brackets the least and greatest start",
    ]
    lines += ["", *table(_rows(costs, [peer.name for peer in peers])), ""]
    print("\n".join(lines))
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(lines))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks requests",
        description="Measure what one request of each kind costs the gateway and sshd.",
    )
    parser.add_argument(
        "--against",
        metavar="REV",
        help="measure the gateway of a git revision, or of a folder with a checkout, beside it",
    )
    parser.add_argument("--only-gateway", action="store_true", help="leave sshd out")
    parser.add_argument("--starts", type=int, default=12, help="of each server (default: 12)")
    parser.add_argument("--rounds", type=int, default=8, help="for each start (default: 8)")
    parser.add_argument("--folder", type=Path, help="where the data is made, 115 MB")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="write the table there too")
    return parser
