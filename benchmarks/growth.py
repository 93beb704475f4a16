"""Throughput, requests and processor time of the gateway with 1, 2, 4... workers, beside sshd.

With N workers, either server runs on the first N processors of the machine and its clients on the
others; with as many workers as processors, both run on all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import processes
from benchmarks.bed import make_key
from benchmarks.crowd import LOADS, Crowd
from benchmarks.data import Data, Sizes
from benchmarks.machine import machine, versions
from benchmarks.peers import REPOSITORY, Keys, Peer
from benchmarks.peers.gateway import Gateway
from benchmarks.peers.openssh import OpenSshGcm
from benchmarks.server import running

_RESULTS = REPOSITORY / "benchmarks/results/growth"
_MIB = 2**20

#: Whether processors are threads that share cores, two at a time.
_SMT = Path("/sys/devices/system/cpu/smt/active")

#: Seconds of a load before it is measured, and for a server's and its clients' start and end.
_WARM_UP, _AROUND = 0.3, 4.0

#: For each load: title, what the rate is in, how many of what is counted that is, and CPU's unit.
_UNITS: Mapping[str, tuple[str, str, float, str]] = {
    "read": ("Sequential reads from the page cache", "GB/s", 1e9, "s/GB"),
    "lstat": ("LSTAT, 16 in flight in each session", "1000 requests/s", 1e3, "s/1000 requests"),
    "files": ("OPEN, READ and CLOSE of files of 4 KiB", "1000 requests/s", 1e3, "s/1000 requests"),
}


class _Workers(Gateway):
    """The gateway with `workers`. The tests' client cannot renew keys."""

    workers: int

    def environment(self) -> Mapping[str, str]:
        more = {"SFTP_GATEWAY_WORKERS": str(self.workers), "SFTP_GATEWAY_REKEY_LIMIT": str(2**36)}
        return {**super().environment(), **more}


def _measure(
    peer: Peer, data: Data, *, workers: int, sessions: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """What each load came to, with a server that was just started."""
    own, others = _shared_out(workers)
    with contextlib.ExitStack() as stack:
        with _bound_to(own):
            server = stack.enter_context(running(peer))
        crowd = stack.enter_context(Crowd(peer, data, sessions=sessions, processors=others))
        for load in LOADS:
            with crowd.at_work():
                time.sleep(_WARM_UP)
                before, server_before = crowd.seen(), processes.cpu_seconds(server.pid)
                busy = _busy(own), _busy(others)
                time.sleep(seconds)
                after, server_after = crowd.seen(), processes.cpu_seconds(server.pid)
                if after.done == before.done:
                    raise RuntimeError(f"no session is served: {load.__name__}")
                took = after.at - before.at
                done = (after.done - before.done) / _UNITS[load.__name__][2]
                yield {
                    "load": load.__name__,
                    "rate": done / took,
                    "server_cpu": (server_after - server_before) / done,
                    "client_cpu": (after.cpu - before.cpu) / done,
                    "server_busy": (_busy(own) - busy[0]) / len(own) / took,
                    "client_busy": (_busy(others) - busy[1]) / len(others) / took,
                }


def _shared_out(workers: int) -> tuple[set[int], set[int]]:
    """The processors of the servers and of the clients."""
    every = sorted(os.sched_getaffinity(0))
    return set(every[:workers]), set(every[workers:] or every)


@contextlib.contextmanager
def _bound_to(processors: set[int]) -> Iterator[None]:
    """What is started meanwhile runs on these processors only."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def _busy(processors: set[int]) -> float:
    """Seconds for which these processors were not idle (proc(5), /proc/stat)."""
    names = {f"cpu{number}" for number in processors}
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    ticks = sum(sum(map(int, line[1:4])) + sum(map(int, line[6:9])) for line in lines
                if line[0] in names)  # fmt: skip
    return ticks / os.sysconf("SC_CLK_TCK")


def _run(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Measurements, round after round, until there are all or the time is up."""
    started = time.monotonic()
    data = Data(
        folder / "data",
        Sizes(big_bytes=options.mib * _MIB, parts=0, small_files=1000, small_bytes=4096, folders=0),
    )
    data.build()
    data.warm()
    keys = Keys(make_key(folder / "host_key"), make_key(folder / "client_key"))
    peers: list[Peer] = [
        of(folder=folder / of.name, data=data.root, keys=keys) for of in (_Workers, OpenSshGcm)
    ]
    for peer in peers:
        peer.prepare()
    once = len(LOADS) * (_WARM_UP + options.seconds) + _AROUND
    for number in range(1, options.rounds + 1):
        for workers in options.workers:
            for peer in peers if number % 2 else reversed(peers):
                if time.monotonic() - started + once > options.limit:
                    _say(f"no time for {workers} workers, {peer.name}, round {number}")
                    continue
                _Workers.workers = workers
                sessions = workers * options.sessions
                what = {"round": number, "workers": workers, "sessions": sessions}
                try:
                    for found in _measure(
                        peer, data, workers=workers, sessions=sessions, seconds=options.seconds
                    ):
                        yield {"peer": peer.name, **what, **found}
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    _say(f"{peer.name}, {workers} workers, round {number}: {error!r}")


def _markdown(result: Mapping[str, Any]) -> str:
    facts = result["machine"]
    lines = [
        f"# Growth with the number of workers, {result['date']}",
        "",
        f"- {facts['cpu']}, {facts['cores']} processors{' (SMT)' if result['smt'] else ''}, "
        f"{facts['memory_gib']} GiB; Linux {facts['kernel']}, {facts['system']}; "
        "servers and clients on loopback",
        f"- {', '.join(f'{name} {number}' for name, number in result['versions'].items())}",
        "- sshd has internal-sftp and one process for each session; both servers use "
        "aes128-gcm@openssh.com and serve the same sessions of the same client",
        "- with N workers, either server runs on the first N processors and its clients on the "
        "others; with as many workers as processors, both run on all of them",
        f"- medians of {max(each['round'] for each in result['measured'])} rounds of "
        f"{result['seconds']:g} s, the servers in turn; in brackets the least and the greatest",
        "- busy: the share of the time in which the server's processors and its clients' were not "
        "idle; where the clients' are busier than the server's, the clients limit the rate",
    ]
    for load, (title, unit, _, cpu_unit) in _UNITS.items():
        lines += ["", f"## {title}", "", *_table(result["measured"], load, unit, cpu_unit)]
    return "\n".join([*lines, ""])


def _table(measured: Sequence[Mapping[str, Any]], load: str, unit: str, cpu: str) -> Iterator[str]:
    yield (
        f"| workers | sessions | gateway, {unit} | sshd | ratio | gateway, times 1 worker "
        f"| gateway CPU, {cpu} | sshd CPU | client CPU | busy: gateway / its clients "
        "| sshd / its clients |"
    )
    yield "|---:" * 11 + "|"
    names = (_Workers.name, OpenSshGcm.name)
    first: float | None = None
    for workers in sorted({each["workers"] for each in measured}):
        cells = [
            [each for each in measured
             if (each["load"], each["workers"], each["peer"]) == (load, workers, name)]
            for name in names
        ]  # fmt: skip
        if not all(cells):
            continue
        gateway, sshd = cells
        rate = _median(gateway, "rate")
        first = first or rate
        yield (
            f"| {workers} | {gateway[0]['sessions']} | {_spread(gateway)} | {_spread(sshd)} "
            f"| {rate / _median(sshd, 'rate'):.2f} | {rate / first:.2f} "
            f"| {_median(gateway, 'server_cpu'):.3g} | {_median(sshd, 'server_cpu'):.3g} "
            f"| {_median(gateway, 'client_cpu'):.3g} | {_both_busy(gateway)} | {_both_busy(sshd)} |"
        )


def _median(cell: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(median(each[name] for each in cell))


def _spread(cell: Sequence[Mapping[str, Any]]) -> str:
    rates = [each["rate"] for each in cell]
    return f"**{median(rates):.3g}** ({min(rates):.3g}-{max(rates):.3g})"


def _both_busy(cell: Sequence[Mapping[str, Any]]) -> str:
    return " / ".join(f"{_median(cell, name):.0%}" for name in ("server_busy", "client_busy"))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print and write."""
    options = _parser().parse_args()
    if options.render is not None:
        result = json.loads(options.render.read_text())
    else:
        result = {
            "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M+00:00}",
            "machine": machine(),
            "smt": _SMT.exists() and _SMT.read_text().strip() == "1",
            "versions": {
                name: number
                for name, number in versions().items()
                if name in ("sftp-gateway", "OpenSSH server", "Python", "asyncssh", "cryptography")
            },
            "seconds": options.seconds,
            "measured": [],
        }
        with tempfile.TemporaryDirectory(prefix="growth-", dir=options.folder) as folder:
            for found in _run(options, Path(folder)):
                _say(json.dumps(found))
                result["measured"].append(found)
                options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(_markdown(result))
    options.json.with_suffix(".md").write_text(_markdown(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description="Measure the gateway with more and more workers, beside sshd.",
    )
    every = len(os.sched_getaffinity(0))
    steps = [number for number in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64) if number <= every]
    parser.add_argument("--workers", type=int, nargs="+", default=steps, metavar="N")
    parser.add_argument("--sessions", type=int, default=4, help="for each worker (default: 4)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement (default: 2)")
    parser.add_argument("--mib", type=int, default=512, help="size of the big file (default: 512)")
    parser.add_argument(
        "--limit", type=float, default=3600, help="seconds after which nothing more is measured"
    )
    parser.add_argument("--folder", type=Path, help="where the data is made (default: /tmp)")
    parser.add_argument(
        "--json",
        type=Path,
        default=_RESULTS.with_suffix(".json"),
        help="where to write the numbers",
    )
    parser.add_argument("--render", type=Path, metavar="FILE", help="numbers to show, and no more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
