"""Starts and ends one peer's process, and times the start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import processes
from benchmarks.peers import Peer

#: Seconds after which a server, or a client, is given up.
PATIENCE = 120.0

#: Seconds that a server may run at all, if nothing else is said. Its end ends clients that hang, on
#: a mount for instance.
_LIFETIME = 300.0

#: Between two looks at something that is about to happen: the resolution of the times measured.
POLL = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server. Times in seconds from its exec; `ready` only where it can tell."""

    peer: Peer
    pid: int
    banner_after: float
    ready_after: float | None


@contextlib.contextmanager
def running(peer: Peer, *, lifetime: float = _LIFETIME) -> Iterator[Server]:
    """Start the peer's server, wait until it serves, and end it afterwards; or after `lifetime`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SFTP_GATEWAY_")}
    with open(peer.folder / "stdout.log", "ab") as out, open(peer.folder / "stderr.log", "ab") as e:
        started = time.perf_counter()
        process = subprocess.Popen(
            peer.command(),
            cwd=peer.folder,
            env={**inherited, **peer.environment()},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=e,
        )
    watchdog = threading.Timer(lifetime, _kill, [process.pid])
    watchdog.start()
    try:
        banner_after = _wait_banner(process, peer, started)
        ready_after = _wait_ready(process, peer, started)
        yield Server(peer=peer, pid=process.pid, banner_after=banner_after, ready_after=ready_after)
    finally:
        watchdog.cancel()
        _end(process)


def _wait_banner(process: subprocess.Popen[bytes], peer: Peer, started: float) -> float:
    """Until the first connection is accepted and greeted (RFC 4253 §4.2)."""
    while True:
        with contextlib.suppress(ConnectionRefusedError), _connected(peer.port) as connection:
            greeting = b""
            while not greeting.startswith(b"SSH-2.0-"):
                if not (received := connection.recv(256)):
                    raise RuntimeError(f"{peer.name} hung up before its banner")
                greeting += received
            return time.perf_counter() - started
        _pause(process, peer, started)


def _wait_ready(process: subprocess.Popen[bytes], peer: Peer, started: float) -> float | None:
    url = peer.ready_url()
    while url is not None:
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url) as answer:  # noqa: S310 - our own
            if answer.status == 200:
                return time.perf_counter() - started
        _pause(process, peer, started)
    return None


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def _pause(process: subprocess.Popen[bytes], peer: Peer, started: float) -> None:
    if process.poll() is not None or time.perf_counter() - started > PATIENCE:
        said = (peer.folder / "stderr.log").read_text(errors="replace")
        raise RuntimeError(f"{peer.name} did not start:\n{said}")
    time.sleep(POLL)


def _kill(pid: int) -> None:
    for member in processes.family(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        _kill(process.pid)
        process.wait()
