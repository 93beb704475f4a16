"""A TCP proxy on loopback that delays data: a long link without loss.

    python -m benchmarks.delay TARGET_PORT SECONDS_EACH_WAY      prints the port it listens on

It holds what is under way in memory, without a limit of its own but `_CAP`, so that only the delay
and the two ends' windows bound the rate. `link` runs it as a process of its own; `check` measures
what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import uvloop

from benchmarks.peers import REPOSITORY

#: The delay of the workloads that are far away, in seconds each way: 50 ms for a round trip.
EACH_WAY = 0.025

#: Bytes under way in one direction after which nothing more is taken in: 200 MB/s and more of it.
_CAP = 64 * 2**20


class _Direction:
    """What one end sends, on its way to the other."""

    def __init__(self, source: asyncio.Transport, sink: asyncio.Transport, delay: float) -> None:
        self._source, self._sink, self._delay = source, sink, delay
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._under_way = 0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, data: bytes | None) -> None:
        """None: the end."""
        self._queue.append((self._loop.time() + self._delay, data))
        self._under_way += len(data or b"")
        if self._under_way > _CAP:
            self._source.pause_reading()
        if self._timer is None:
            self._timer = self._loop.call_later(self._delay, self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        due: list[bytes] = []
        # The loop's clock has whole milliseconds: what is due within this one goes now.
        while self._queue and self._queue[0][0] <= self._loop.time() + 0.001:
            _, data = self._queue.popleft()
            if data is None:
                self._sink.close()
                return
            due.append(data)
        if due:
            self._sink.write(b"".join(due))
            self._under_way -= sum(map(len, due))
            if self._under_way <= _CAP and not self._source.is_closing():
                self._source.resume_reading()
        if self._queue:
            wait = self._queue[0][0] - self._loop.time()
            self._timer = self._loop.call_later(max(wait, 0), self._deliver)


class _End(asyncio.Protocol):
    """One of the two connections; keeps what it receives until it is known where that goes."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._into: _Direction | None = None
        self._early: list[bytes | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes | None) -> None:
        if self._into is None:
            self._early.append(data)
        else:
            self._into.put(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self.data_received(None)

    def send_into(self, direction: _Direction) -> None:
        self._into = direction
        for data in self._early:
            direction.put(data)


class _Client(_End):
    """The connection that was accepted: makes the other one, and joins them."""

    def __init__(self, target: int, delay: float) -> None:
        super().__init__()
        self._target, self._delay = target, delay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self._joining = asyncio.ensure_future(self._join(self.transport))

    async def _join(self, here: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        try:
            there, server = await loop.create_connection(_End, "127.0.0.1", self._target)
        except OSError:
            here.abort()
            return
        self.send_into(_Direction(here, there, self._delay))
        server.send_into(_Direction(there, here, self._delay))


async def _serve(target: int, delay: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Client(target, delay), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def link(target: int, *, each_way: float = EACH_WAY) -> Iterator[int]:
    """A proxy in front of the port `target` of loopback; the port to connect to instead."""
    command = [sys.executable, "-m", "benchmarks.delay", str(target), str(each_way)]
    proxy = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert proxy.stdout is not None
        yield int(proxy.stdout.readline())
    finally:
        proxy.terminate()
        proxy.communicate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What the proxy does: round trip in ms, and MB/s one way without any delay."""

    round_trip: float
    rate: float


def check(*, megabytes: int = 256) -> Link:
    """Measure the proxy between this process and one that acknowledges."""
    with _acknowledging() as port:
        with link(port) as far:
            trips = list(_round_trips(far, 20))
        with link(port, each_way=0) as near:
            rate = _rate(near, megabytes)
    return Link(round_trip=statistics.median(trips) * 1e3, rate=rate)


def _round_trips(port: int, number: int) -> Iterator[float]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(number):
            started = time.perf_counter()
            connection.sendall(b"1")
            connection.recv(4)
            yield time.perf_counter() - started


def _rate(port: int, megabytes: int) -> float:
    """MB/s through the proxy, until all has been acknowledged."""
    block = bytes(1_000_000)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        answers = connection.makefile("rb")
        started = time.perf_counter()
        for _ in range(megabytes):
            connection.sendall(block)
        left = megabytes * len(block)
        while left:
            left -= int.from_bytes(answers.read(4), "big")
        return megabytes / (time.perf_counter() - started)


@contextlib.contextmanager
def _acknowledging() -> Iterator[int]:
    """A server that answers each chunk with its length, in four bytes."""

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(1 << 20):
                connection.sendall(len(data).to_bytes(4, "big"))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
