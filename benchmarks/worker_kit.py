"""What the worker kit's mount options are worth on links of some length, and why they are these.

    python -m benchmarks.worker_kit              # about 12 minutes; writes results/worker_kit.*
    python -m benchmarks.worker_kit --quick      # shows that it works, no more

Root only: the kernel's read-ahead of a mount is set in /sys. One gateway on loopback, behind a
proxy that delays (`benchmarks.delay`). Each measurement has a mount of its own, whose connections
are all there before it begins, and ends with its data or after some seconds, so that slow ones do
not take for ever.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.clients import Clients
from benchmarks.delay import link
from benchmarks.machine import load_average, machine, versions
from benchmarks.peers import REPOSITORY
from benchmarks.peers.gateway import Gateway
from benchmarks.runner import make_keys
from benchmarks.server import running
from sftp_gateway.worker_kit import mounting

_RESULTS: Final = REPOSITORY / "benchmarks/results/worker_kit"
_CHUNK: Final = 1024 * 1024
_READERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much there is to read, and for how many seconds at most."""

    big_bytes: int = 512 * _CHUNK
    files: int = 500
    file_bytes: int = 1_000_000
    seconds: float = 10.0


_QUICK: Final = Sizes(big_bytes=4 * _CHUNK, files=8, seconds=2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A way to mount; `read_ahead` in KiB."""

    name: str
    sshfs: Sequence[str]
    read_ahead: int = 128
    conns: int = 1

    @property
    def all(self) -> Sequence[str]:
        """For sshfs."""
        return [*self.sshfs, *([f"max_conns={self.conns}"] if self.conns > 1 else [])]


#: What workers had before.
_PLAIN: Final = Options(
    name="plain",
    sshfs=("allow_other", "default_permissions", "reconnect", "cache_timeout=3600"),
)
_KIT: Final = Options(
    name="kit",
    sshfs=(*mounting.OPTIONS, *mounting.CACHE.split(",")),
    read_ahead=mounting.READ_AHEAD_KB,
    conns=mounting.MAX_CONNS,
)
#: The kit's, each with one thing changed.
_VARIANTS: Final = (
    *(
        replace(_KIT, name=f"read_ahead_kb {size}", read_ahead=size)
        for size in (128, 1024, 4096, 16384)
        if size != _KIT.read_ahead
    ),
    *(
        replace(_KIT, name=f"max_conns {number}", conns=number)
        for number in (1, 2, 4, 8)
        if number != _KIT.conns
    ),
    replace(
        _KIT,
        name="max_read 32768",
        sshfs=[each for each in _KIT.sshfs if not each.startswith("max_read")],
    ),
    replace(
        _KIT, name="no auto_cache", sshfs=[each for each in _KIT.sshfs if each != "auto_cache"]
    ),
)
_WORKLOADS: Final = ("big", "files", "again")
_TITLES: Final = {
    "big": "one big file",
    "files": f"1 MB files, {_READERS} readers",
    "again": "32 MiB of it once more",
}


class Bed:
    """A gateway with the data, to be mounted in different ways."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.sizes = sizes
        data = folder / "data"
        data.mkdir()
        _make_data(data, sizes)
        keys = make_keys(folder)
        self.gateway = Gateway(folder=folder / "gateway", data=data, keys=keys)
        self.gateway.prepare()
        self.clients = Clients(self.gateway, folder / "mounts")

    def measure(self, options: Options, round_trip: int) -> dict[str, float]:
        """MB/s of each workload, each in a mount of its own."""
        with contextlib.ExitStack() as stack:
            port = self.gateway.port
            if round_trip:
                port = stack.enter_context(link(port, each_way=round_trip / 2000))
            found = {}
            with self._mounted(options, port) as at:
                found["big"] = _timed([at / "big.bin"], 1, self.sizes.seconds)
            with self._mounted(options, port) as at:
                # Listed first, as readers of a folder do: sshfs then asks for no file's attributes.
                names = sorted((at / "files").iterdir())
                found["files"] = _timed(names, _READERS, self.sizes.seconds)
            with self._mounted(options, port) as at:
                part = [at / "part.bin"]
                _timed(part, 1, PATIENCE)
                found["again"] = _timed(part, 1, self.sizes.seconds)
            return found

    @contextlib.contextmanager
    def _mounted(self, options: Options, port: int) -> Iterator[Path]:
        with self.clients.mounted(*options.all, port=port) as at:
            device = at.stat().st_dev
            setting = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
            Path(setting).write_text(str(options.read_ahead))
            # sshfs makes a connection when it is first used: files that are open at once need all.
            with contextlib.ExitStack() as opened:
                for number in range(options.conns):
                    opened.enter_context(open(at / f"first/{number}", "rb")).read()
            yield at


#: Seconds for what is read without being measured.
PATIENCE: Final = 120.0


def _make_data(folder: Path, sizes: Sizes) -> None:
    noise = random.Random(1)
    (folder / "files").mkdir()
    with open(folder / "big.bin", "wb") as big:
        for _ in range(sizes.big_bytes // _CHUNK):
            big.write(noise.randbytes(_CHUNK))
    (folder / "part.bin").write_bytes(noise.randbytes(min(sizes.big_bytes, 32 * _CHUNK)))
    (folder / "first").mkdir()
    for number in range(_READERS):
        (folder / f"first/{number}").write_bytes(b"1")
    for number in range(sizes.files):
        (folder / f"files/{number:03}").write_bytes(noise.randbytes(sizes.file_bytes))
    os.sync()


def _timed(names: Sequence[Path], readers: int, seconds: float) -> float:
    """MB/s of `readers` that share the files, until all are read or the time is up."""
    started = time.perf_counter()
    deadline = started + seconds
    queue, lock = iter(names), threading.Lock()

    def read() -> int:
        count = 0
        while time.perf_counter() < deadline:
            with lock:
                name = next(queue, None)
            if name is None:
                break
            with open(name, "rb", buffering=0) as file:
                while time.perf_counter() < deadline and (chunk := file.read(_CHUNK)):
                    count += len(chunk)
        return count

    with ThreadPoolExecutor(readers) as pool:
        total = sum(task.result() for task in [pool.submit(read) for _ in range(readers)])
    return total / 1e6 / (time.perf_counter() - started)


def _run(bed: Bed, trips: Sequence[int], chosen: Sequence[int], rounds: int) -> dict[str, Any]:
    """Rates by round trip, options and workload, of each round."""
    found: dict[str, Any] = {"links": {}, "choices": {}}
    with running(bed.gateway, lifetime=3600):
        for part, links, all_options in (
            ("links", trips, (_PLAIN, _KIT)),
            ("choices", chosen, (_KIT, *_VARIANTS)),
        ):
            for number in range(rounds):
                for trip in links:
                    for options in all_options:
                        rates = bed.measure(options, trip)
                        _say(f"{part} {number + 1}/{rounds}, {trip} ms, {options.name}: {rates}")
                        cell = found[part].setdefault(str(trip), {}).setdefault(options.name, {})
                        for name, rate in rates.items():
                            cell.setdefault(name, []).append(round(rate, 2))
    return found


def _markdown(result: Mapping[str, Any]) -> str:
    facts, kit = result["machine"], _KIT
    lines = [
        f"# The worker kit's mount options, {result['date']}",
        "",
        f"- {facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB; "
        f"Linux {facts['kernel']}, {facts['system']}; server and clients on loopback, behind a "
        "proxy that delays",
        f"- {', '.join(f'{name} {number}' for name, number in result['versions'].items())}",
        f"- MB/s; medians of {_rounds(result['links'])} rounds, in brackets least and greatest. A "
        f"measurement ends with its data ({result['big_bytes'] // 2**20} MiB; {result['files']} "
        f"files) or after {result['seconds']:g} s",
        f"- plain: `-o {','.join(_PLAIN.all)}`, read-ahead 128 KiB, as the kernel has it",
        f"- kit: `-o {','.join(kit.all)}`, read-ahead {kit.read_ahead} KiB",
        f"- load average (1 min) {result['load'][0]} before, {result['load'][1]} after",
        "",
        "| round trip | | plain | kit | times |",
        "| --- | --- | --- | --- | --- |",
    ]
    for trip, cells in result["links"].items():
        for name in _WORKLOADS:
            plain, chosen = cells["plain"][name], cells["kit"][name]
            times = statistics.median(chosen) / statistics.median(plain)
            lines.append(
                f"| {trip} ms | {_TITLES[name]} | {_cell(plain)} | {_cell(chosen)} | {times:.2f} |"
            )
    for trip, cells in result["choices"].items():
        times = _rounds({trip: cells})
        lines += ["", f"## The kit with one thing changed, {trip} ms (rounds: {times})", ""]
        lines.append("| | " + " | ".join(_TITLES[name] for name in _WORKLOADS) + " |")
        lines.append("| --- " * (1 + len(_WORKLOADS)) + "|")
        for options, rates in cells.items():
            lines.append(f"| {options} | {' | '.join(_cell(rates[n]) for n in _WORKLOADS)} |")
    return "\n".join([*lines, ""])


def _rounds(cells: Mapping[str, Any]) -> int:
    """The fewest of any number in it."""
    return min(
        len(values)
        for options in cells.values()
        for rates in options.values()
        for values in rates.values()
    )


def _cell(values: Sequence[float]) -> str:
    shown = f"**{statistics.median(values):.3g}**"
    return f"{shown} ({min(values):.3g}-{max(values):.3g})" if len(values) > 1 else shown


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker_kit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="little data, one round, writes none")
    parser.add_argument("--output", type=Path, help="stem of the .json and .md to write")
    parser.add_argument("--trips", type=int, nargs="*", default=[0, 20, 50, 200], metavar="MS")
    parser.add_argument("--choices", type=int, nargs="*", default=[0, 50], metavar="MS")
    parser.add_argument("--add", action="store_true", help="keep what OUTPUT.json has of the rest")
    given = parser.parse_args()
    output = given.output or (None if given.quick else _RESULTS)
    sizes, rounds = (_QUICK, 1) if given.quick else (Sizes(), given.rounds)
    before = load_average()[0]
    with tempfile.TemporaryDirectory(prefix="worker-kit-") as folder:
        found = _run(Bed(Path(folder), sizes), given.trips, given.choices, rounds)
    result = {
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M+00:00}",
        "machine": machine(),
        "versions": {
            name: number
            for name, number in versions().items()
            if name in ("sftp-gateway", "sshfs", "OpenSSH client", "Python", "asyncssh")
        },
        "load": [before, load_average()[0]],
        "big_bytes": sizes.big_bytes,
        "files": sizes.files,
        "seconds": sizes.seconds,
        **found,
    }
    if given.add and output is not None:
        before_that = json.loads(output.with_suffix(".json").read_text())
        for part in ("links", "choices"):
            cells = {**before_that[part], **result[part]}
            result[part] = {trip: cells[trip] for trip in sorted(cells, key=int)}
    print(_markdown(result))
    if output is not None:
        output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
        output.with_suffix(".md").write_text(_markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
