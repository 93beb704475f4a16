"""`python -m benchmarks.way`: the functions that a READ, an LSTAT, an OPEN and a CLOSE go through.

Each request is sent once the same has been answered before, so that all caches are warm. It counts
Python functions of the gateway, from the socket to the socket, and of these the SFTP half: from the
session's input to what it hands to the SSH channel.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from benchmarks.clients import Clients
from benchmarks.peers import REPOSITORY
from benchmarks.peers.gateway import Gateway
from benchmarks.raw_sftp import RawSftp
from benchmarks.runner import make_keys
from benchmarks.server import PATIENCE, running

#: Depth, file and function of each call, in order.
Calls: TypeAlias = Sequence[tuple[int, str, str]]

#: Where the SFTP half begins, and where it hands over.
_INPUT: Final = "SftpSession.data_received"
_OUTPUT: Final = "ChannelSession.flush"


class TracedGateway(Gateway):
    """The gateway of `checkout`, whose workers write their calls to standard error."""

    @property
    def trace(self) -> Path:
        """Where tracer.py writes, among other messages."""
        return self.folder / "stderr.log"

    def command(self) -> Sequence[str]:
        return [sys.executable, str(REPOSITORY / "benchmarks/tracer.py"), "serve"]


def main() -> int:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="sftp-way-") as made:
        folder = Path(made)
        (folder / "data").mkdir()
        (folder / "data/file").write_bytes(bytes(65536))
        gateway = TracedGateway(
            folder=folder / "gateway", data=folder / "data", keys=make_keys(folder)
        )
        gateway.checkout = options.checkout.absolute()
        gateway.prepare()
        clients = Clients(gateway, folder / "clients")
        with running(gateway):
            ways = _ways(gateway, clients)
    for request, calls in ways.items():
        print(f"\n{request}: {_figures(calls)}\n{' ' * len(request)}  SFTP: ", end="")
        print(_figures(_sftp_half(calls)))
        if not options.quiet:
            for depth, file, function in calls:
                print(f"  {'  ' * depth}{function}  ({file})")
    return 0


def _ways(gateway: TracedGateway, clients: Clients) -> dict[str, Calls]:
    session = RawSftp(clients.ssh_sftp(stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    path = f"{gateway.remote}/file".encode()
    try:
        handle = session.open(path)
        requests: dict[str, Callable[[], object]] = {
            "READ": lambda: session.read(handle, 0, 4096),
            "LSTAT": lambda: session.lstat(path),
            "OPEN": lambda: session.open(path),
            "CLOSE": lambda: session.close(session.open(path)),
        }
        return {name: _trace(ask, gateway.trace) for name, ask in requests.items()}
    finally:
        session.end()


def _trace(ask: Callable[[], object], trace: Path) -> Calls:
    """The calls for the last piece of data that came while `ask` ran a second time."""
    ask()
    before = len(_traced(trace))
    ask()
    deadline = time.monotonic() + PATIENCE
    while len(_traced(trace)) <= before:  # written behind the answer
        if time.monotonic() > deadline:
            raise RuntimeError("nothing was traced")
        time.sleep(0.01)
    time.sleep(0.1)
    return [tuple(call) for call in json.loads(_traced(trace)[-1])]


def _traced(trace: Path) -> Sequence[bytes]:
    """The lines of tracer.py."""
    return [line for line in trace.read_bytes().splitlines(True) if line.startswith(b"[[")]


def _sftp_half(calls: Calls) -> Calls:
    """Those that the SFTP session makes, without what sends its answer."""
    kept: list[tuple[int, str, str]] = []
    skipped = sys.maxsize
    for depth, file, function in calls:
        if not kept and function != _INPUT:
            continue
        if kept and depth <= kept[0][0]:
            break
        if depth > skipped:
            continue
        skipped = depth if function == _OUTPUT else sys.maxsize
        if function != _OUTPUT:
            kept.append((depth, file, function))
    return kept


def _figures(calls: Calls) -> str:
    functions = {call[1:] for call in calls}
    files = {file for _, file, _ in calls}
    moves, stack = 0, [""]
    first = calls[0][0]
    for depth, file, _ in calls:
        del stack[depth - first + 1 :]
        moves += stack[-1] not in ("", file)
        stack.append(file)
    return f"{len(calls)} calls, {len(functions)} functions, {len(files)} files, {moves} moves"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.way",
        description="Show the functions that one request goes through.",
    )
    parser.add_argument("--quiet", action="store_true", help="print the figures alone")
    parser.add_argument(
        "--checkout", type=Path, default=REPOSITORY, help="trace the gateway of another checkout"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
