"""How soon a mount reads again behind a fault, and what connections cost that say nothing.

    python -m benchmarks.reconnects [WORD]     # only faults in whose name it is

Needs root: a stock sshfs mounts with `reconnect` over a link of its own, between two network
namespaces, which can be cut: then both ends' packets are lost, and nobody is told. A reader reads a
file of 1 MiB over and over; what is told is the time from the fault (for links: from when they are
whole again) to the end of the first whole read that began behind it. The read that was cut off
ends before that.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import memory_now
from sftp_gateway.process.supervisor.backoff import MIN_UPTIME
from tests.support.gateway import Gateway, fill, unmount, wait_for

ROUNDS: Final = 5
SILENT: Final = 10_000

_CONTENT: Final = os.urandom(1 << 20)
_PORT: Final = 2222
_SERVER, _CLIENT = "10.213.77.1", "10.213.77.2"

#: With these, ssh takes a peer for dead after 3 seconds; with the others, as the worker kit has
#: them, after 45.
_HASTY: Final = ("ServerAliveInterval=1", "ServerAliveCountMax=3")
_PATIENT: Final = ("ServerAliveInterval=15", "ServerAliveCountMax=3")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextlib.contextmanager
def _link() -> Iterator[tuple[str, Callable[[float], float]]]:
    """A network namespace for the gateway, and what cuts the link to it for some seconds."""
    name = f"sgw{os.getpid()}"
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", "gw", "netns", name)
        _run("ip", "address", "add", f"{_CLIENT}/30", "dev", name)
        _run("ip", "link", "set", name, "up")
        for command in (f"address add {_SERVER}/30 dev gw", "link set gw up", "link set lo up"):
            _run("ip", "-n", name, *command.split())
        yield name, functools.partial(_cut, name)
    finally:
        _run("ip", "netns", "delete", name)


def _cut(name: str, seconds: float) -> float:
    """Lose what comes from either end; when the link was whole again."""
    ends: list[list[str]] = [["iptables", "-w"], ["ip", "netns", "exec", name, "iptables", "-w"]]
    with contextlib.ExitStack() as stack:
        for end, device in zip(ends, (name, "gw"), strict=True):
            rule = ["INPUT", "-i", device, "-j", "DROP"]
            _run(*end, "-I", *rule)
            stack.callback(_run, *end, "-D", *rule)
        time.sleep(seconds)
    return time.monotonic()


class _Reader:
    """Reads a file over and over, and knows when a whole read that began since has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = self._ended = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            with contextlib.suppress(OSError):
                if self._path.read_bytes() == _CONTENT:
                    self._began, self._ended = began, time.monotonic()
                    continue
            time.sleep(0.01)

    def seconds_from(self, moment: float) -> float:
        """Wait for a read that began behind the moment; how long behind it that had ended."""
        wait_for(lambda: self._began > moment, "a read", 120)
        return self._ended - moment

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@contextlib.contextmanager
def _mounted(gateway: Gateway, at: Path, alive: Sequence[str]) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    options = [
        f"IdentityFile={gateway.key}", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR", "reconnect", "direct_io", *alive, "ConnectTimeout=1",
    ]  # fmt: skip
    sshfs = subprocess.Popen(
        ["sshfs", "-f", "-p", str(_PORT), f"gvpocr@{_SERVER}:/home/gvpocr", str(at),
         *(f"-o{option}" for option in options)], stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: os.path.ismount(at), "the mount")
        yield at
    finally:
        unmount(at, sshfs)


def _reconnects(folder: Path, word: str) -> Iterator[tuple[str, list[float]]]:
    with _link() as (namespace, cut):
        runner = ["ip", "netns", "exec", namespace]
        gateway = Gateway(
            folder, options={"SFTP_GATEWAY_HOST": "", "SFTP_GATEWAY_PORT": str(_PORT)}
        )
        gateway.start(runner)
        fill(folder / "shared/models", {"file": _CONTENT})

        def kill() -> float:
            time.sleep(MIN_UPTIME + 1)  # so that they are replaced at once
            workers = {event["pid"] for event in gateway.events("worker_started")}
            moment = time.monotonic()
            for pid in workers.intersection(gateway.pids):
                os.kill(pid, signal.SIGKILL)
            return moment

        def restart() -> float:
            gateway.stop()
            moment = time.monotonic()
            gateway.start(runner)
            return moment

        faults: list[tuple[str, Sequence[str], Callable[[], float]]] = [
            ("kill -9 of all workers", _HASTY, kill),
            ("a stop, the start included", _HASTY, restart),
            ("a link cut for 2 s", _PATIENT, lambda: cut(2)),
            ("a link cut for 10 s", _PATIENT, lambda: cut(10)),
            ("a link cut for 10 s, where ssh gives up after 3", _HASTY, lambda: cut(10)),
            ("a link cut for 30 s", _PATIENT, lambda: cut(30)),
        ]
        try:
            for name, alive, fault in (each for each in faults if word in each[0]):
                with _mounted(gateway, folder / "mnt", alive) as mount:
                    reader = _Reader(mount / "models/file")
                    try:
                        yield name, [_measure(reader, fault) for _ in range(ROUNDS)]
                    finally:
                        reader.stop()
        finally:
            gateway.close()


def _measure(reader: _Reader, fault: Callable[[], float]) -> float:
    reader.seconds_from(time.monotonic())
    return reader.seconds_from(fault())


def _silent(folder: Path, beginning: bytes) -> float:
    """KiB for each of many connections that send this much and nothing more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options: dict[str, Any] = {
        "SFTP_GATEWAY_MAX_CONNECTIONS": str(2 * SILENT),
        "SFTP_GATEWAY_MAX_STARTUPS": str(2 * SILENT),
        "SFTP_GATEWAY_LOGIN_GRACE_TIME": "600",
    }
    gateway = Gateway(folder, options=options).start()
    assert gateway.process is not None
    try:
        before = memory_now(gateway.process.pid).anonymous
        with contextlib.ExitStack() as stack:
            for number in range(SILENT):
                source = (f"127.0.1.{1 + number % 200}", 0)
                made = socket.create_connection(("127.0.0.1", gateway.port), 30, source)
                stack.enter_context(made)
                assert made.recv(8) == b"SSH-2.0-"
                made.sendall(beginning)
            time.sleep(1)
            return (memory_now(gateway.process.pid).anonymous - before) / SILENT
    finally:
        gateway.close()


def main() -> None:
    """Print a table."""
    word = next(iter(sys.argv[1:]), "")
    print(f"| seconds to the first whole read behind ({ROUNDS} times) | least | median | most |")
    print("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, found in _reconnects(Path(folder), word):
            figures = (min(found), statistics.median(found), max(found))
            print(f"| {name} | {' | '.join(f'{each:.2f}' for each in figures)} |", flush=True)
    for name, beginning in (("nothing", b""), ("a header", b"SSH-2.0-x\r\n\0\0\1")):
        if word not in f"silent {name}":
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(
                f"{SILENT} connections that send {name}: {_silent(Path(folder), beginning):.1f}"
                " KiB each"
            )


if __name__ == "__main__":
    main()
