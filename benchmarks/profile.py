"""`python -m benchmarks.profile`: where the gateway's time goes, and how far it is from the limit.

Reads a big file through sshfs, as the workload `sequential` does: some rounds beside the parts of
`limit`, and then once more while py-spy looks at the gateway. Writes a flame graph and a table.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks import limit
from benchmarks.clients import Clients
from benchmarks.data import QUICK, Data, Sizes
from benchmarks.machine import machine, versions
from benchmarks.peers import REPOSITORY
from benchmarks.peers.gateway import Gateway
from benchmarks.runner import make_keys
from benchmarks.server import PATIENCE, running
from benchmarks.workloads import Stage
from benchmarks.workloads.reading import sequential

_RESULTS = REPOSITORY / "benchmarks/results"

#: Looks per second: enough for what takes 1% of a second of reading.
_RATE = 250


def main() -> int:
    options = _parser().parse_args()
    sizes = QUICK if options.quick else Sizes()
    with tempfile.TemporaryDirectory(prefix="sftp-profile-", dir=options.folder) as made:
        folder = Path(made)
        data = Data(folder / "data", sizes)
        data.build()
        gateway = Gateway(folder=folder / "gateway", data=data.root, keys=make_keys(folder))
        gateway.prepare()
        clients = Clients(gateway, folder / "clients")
        costs: list[float] = []
        for _ in range(options.rounds):
            with running(gateway) as server:
                stage = Stage(server=server, clients=clients, data=data)
                costs.append(sequential(stage)["sequential_cpu"])
        least = limit.measure(data.root / "big.bin", rounds=options.rounds)
        options.output.mkdir(parents=True, exist_ok=True)
        _record(gateway, clients, data, options.output / "flame.svg")
    table = _table(least, median(costs), sizes, options.rounds)
    (options.output / "limit.md").write_text(table)
    print(table)
    return 0


def _record(gateway: Gateway, clients: Clients, data: Data, picture: Path) -> None:
    """Write the flame graph of one sequential read; workers of the gateway are in it."""
    with running(gateway) as server:
        spy = subprocess.Popen(
            [
                "py-spy", "record", "--native", "--subprocesses", "--rate", str(_RATE),
                "--format", "flamegraph", "--output", str(picture), "--pid", str(server.pid),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            assert spy.stdout is not None
            spy.stdout.readline()  # "Sampling process ...": it is at work
            sequential(Stage(server=server, clients=clients, data=data))
            spy.send_signal(signal.SIGINT)  # then it writes what it has
            said, _ = spy.communicate(timeout=PATIENCE)
        finally:
            spy.kill()
            spy.wait()
        if spy.returncode or not picture.exists():
            raise RuntimeError(f"py-spy failed: {said.decode(errors='replace')}")
    drawn = picture.read_text()
    for path, name in ((str(picture), picture.name), (sys.executable, "python")):
        drawn = drawn.replace(path, name)  # the machine's own paths tell readers nothing
    picture.write_text(drawn)


def _table(least: limit.Limit, gateway: float, sizes: Sizes, rounds: int) -> str:
    facts, used = machine(), versions()
    rows = [
        ("AES-128-GCM, packets of 32 KiB, `encrypt_into`", least.encrypt),
        ("one copy out of the page cache, `preadv` of 32 KiB", least.read),
        ("one send over loopback, 256 KiB at a time", least.send),
        ("**the limit**: all three", least.total),
        ("**the gateway**, one sequential read through sshfs", gateway),
        ("of it above the limit", gateway - least.total),
    ]
    return "\n".join(
        [
            "# The limit",
            "",
            f"- {facts['cpu']}, {facts['cores']} cores; Linux {facts['kernel']}; Python "
            f"{used['Python']}, cryptography {used['cryptography']}; "
            f"sftp-gateway {used['sftp-gateway']}",
            f"- medians of {rounds} rounds with {sizes.big_bytes // 2**20} MiB, in the same run",
            "",
            "| processor time for a GB | s |",
            "| --- | ---: |",
            *(f"| {name} | {seconds:.3f} |" for name, seconds in rows),
            "",
            f"The gateway needs {gateway / least.total:.2f} times what cannot be avoided.",
            "",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description="Show where the gateway's time goes, and how far it is from the limit.",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="little data: does it work at all")
    parser.add_argument("--folder", type=Path, help="where the data is made (default: TMPDIR)")
    parser.add_argument(
        "--output",
        type=Path,
        default=_RESULTS,
        help=f"the folder of flame.svg and limit.md (default: {_RESULTS.relative_to(REPOSITORY)})",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
