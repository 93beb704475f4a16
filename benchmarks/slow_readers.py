"""What the others notice of clients that never read, and of clients that read all the time.

`python -m benchmarks.slow_readers` measures both with stock clients; see README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bed import Bed
from benchmarks.endurance import MIB, leave
from benchmarks.processes import Memory, memory
from benchmarks.raw_sftp import LONGEST_READ, RawSftp, SilentReader, silence

_BIG = "big.bin"

#: What each silent reader asks for.
_ASKED = 1024 * MIB

#: What the others keep of their speed, at the least.
LEAST_RATIO = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is done. `big_bytes` is read through a mount, `rounds` times in each case."""

    big_bytes: int = 512 * MIB
    silent_readers: int = 50
    bulk_readers: int = 8
    rounds: int = 3
    samples: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SilentResult:
    """Rates of one reader in bytes a second; memory of the gateway."""

    alone: float
    beside: float
    before: Memory
    after: Memory

    @property
    def ratio(self) -> float:
        return self.beside / self.alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Seconds from a request to its answer, sorted."""

    lstat: list[float]
    open_folder: list[float]


def make_data(folder: Path, sizes: Sizes) -> None:
    """The file that all read, and a folder to look at."""
    (folder / "folder").mkdir(parents=True)
    with open(folder / _BIG, "wb") as big:
        for _ in range(sizes.big_bytes // MIB):
            big.write(os.urandom(MIB))


def beside_silent_readers(bed: Bed, sizes: Sizes) -> SilentResult:
    """The speed of one mount, alone and beside clients that ask and never read; in turn."""
    alone, beside = [], []
    with bed.running() as server:
        before = memory(server.pid)
        for _ in range(sizes.rounds):
            alone.append(_sequential(bed, sizes))
            with _silent_readers(bed, sizes) as readers:
                while silence(readers):
                    after = memory(server.pid)  # once the server has come to rest
                beside.append(_sequential(bed, sizes))
    return SilentResult(
        alone=statistics.median(alone),
        beside=statistics.median(beside),
        before=before,
        after=after,
    )


def beside_bulk_readers(bed: Bed, sizes: Sizes) -> tuple[Latencies, Latencies]:
    """How long a client waits for small answers: alone, and beside `sftp get`, over and over."""
    with bed.running(), _session(bed) as session:
        alone = _latencies(bed, session, sizes)
        with _bulk_readers(bed, sizes):
            return alone, _latencies(bed, session, sizes)


def _sequential(bed: Bed, sizes: Sizes) -> float:
    with bed.mounted() as mount, open(mount.at / _BIG, "rb", buffering=0) as big:
        block, length = bytearray(MIB), 0
        started = time.perf_counter()
        while count := big.readinto(block):
            length += count
        seconds = time.perf_counter() - started
    if length != sizes.big_bytes:
        raise RuntimeError(f"only {length} bytes of {sizes.big_bytes} came")
    return length / seconds


def _latencies(bed: Bed, session: RawSftp, sizes: Sizes) -> Latencies:
    file, folder = bed.remote(_BIG), bed.remote("folder")
    return Latencies(
        lstat=_timed(lambda: session.lstat(file), sizes.samples),
        open_folder=_timed(lambda: session.open_folder(folder), sizes.samples),
    )


def _timed(ask: Callable[[], None], samples: int) -> list[float]:
    found = []
    for _ in range(samples):
        started = time.perf_counter()
        ask()
        found.append(time.perf_counter() - started)
    return sorted(found)


@contextlib.contextmanager
def _session(bed: Bed) -> Iterator[RawSftp]:
    session = RawSftp(bed.ssh_sftp())
    try:
        yield session
    finally:
        session.end()


@contextlib.contextmanager
def _silent_readers(bed: Bed, sizes: Sizes) -> Iterator[list[SilentReader]]:
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(_session(bed)) for _ in range(sizes.silent_readers)]
        yield [
            SilentReader(session, bed.remote(_BIG), length=LONGEST_READ, total=_ASKED)
            for session in sessions
        ]


@contextlib.contextmanager
def _bulk_readers(bed: Bed, sizes: Sizes) -> Iterator[None]:
    get = f"get {os.fsdecode(bed.remote(_BIG))} /dev/null"
    sent = bed.bytes_sent()
    with contextlib.ExitStack() as stack:
        for _ in range(sizes.bulk_readers):
            reader = bed.sftp(*[get] * 1000)
            stack.callback(reader.wait)
            stack.callback(reader.terminate)
        # All are past their logins, and at it.
        while bed.bytes_sent() < sent + sizes.bulk_readers * 8 * MIB:
            time.sleep(0.05)
        yield


def main() -> int:
    """Measure and print; 1 if silent readers take more than half of the others' speed."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, leave)
    sizes = Sizes(silent_readers=options.silent, bulk_readers=options.bulk, rounds=options.rounds)
    with tempfile.TemporaryDirectory(prefix="sftp-slow-readers-", dir=options.folder) as name:
        folder = Path(name)
        make_data(folder / "data", sizes)
        bed = Bed(folder=folder / "bed", data=folder / "data", options={})
        silent = beside_silent_readers(bed, sizes)
        alone, beside = beside_bulk_readers(bed, sizes)
    grown = (silent.after.anonymous - silent.before.anonymous) / sizes.silent_readers
    print(f"| | alone | beside {sizes.silent_readers} clients that never read | ratio |")
    print(f"|---{'|---:' * 3}|")
    rates = f"{silent.alone / 1e6:.0f} | {silent.beside / 1e6:.0f} | {silent.ratio:.2f}"
    print(f"| sequential read, MB/s | {rates} |")
    print(f"\nEach of those costs the gateway {grown:.0f} KiB.\n")
    print(f"| ms, p50 / p99 | alone | beside {sizes.bulk_readers} bulk readers |")
    print(f"|---{'|---:' * 2}|")
    print(f"| LSTAT | {_percentiles(alone.lstat)} | {_percentiles(beside.lstat)} |")
    print(
        f"| OPENDIR and CLOSE | {_percentiles(alone.open_folder)} "
        f"| {_percentiles(beside.open_folder)} |"
    )
    return 0 if silent.ratio >= LEAST_RATIO else 1


def _percentiles(latencies: list[float]) -> str:
    cuts = statistics.quantiles(latencies, n=100)
    return f"{cuts[49] * 1000:.2f} / {cuts[98] * 1000:.2f}"


def _parser() -> argparse.ArgumentParser:
    sizes = Sizes()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.slow_readers",
        description="Measure what others notice of clients that never read, or read all the time.",
    )
    parser.add_argument("--silent", type=int, default=sizes.silent_readers, metavar="CLIENTS")
    parser.add_argument("--bulk", type=int, default=sizes.bulk_readers, metavar="CLIENTS")
    parser.add_argument("--rounds", type=int, default=sizes.rounds)
    parser.add_argument("--folder", type=Path, help="where the data is made (default: TMPDIR)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
