"""How connections spread over worker processes, and how fast they come, in three ways of sharing.

    python -m benchmarks.spread

- `reuseport`: each worker has a listening socket of its own; the kernel picks one by a hash.
- `inherited`: the workers wait for one listening socket; who wakes first accepts.
- `passed`: one process accepts, and passes each connection to the worker that has the fewest.

Workers run uvloop, as the gateway's do. For the spread, connections are made one after another
and held; for the rate, clients connect, read one byte and close. Medians of several rounds.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import functools
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Final, cast

import uvloop

WAYS: Final = ("reuseport", "inherited", "passed")
ROUNDS: Final = 9
RATE_CONNECTIONS: Final = 2000
CLIENT_THREADS: Final = 8


class _Greeter(asyncio.Protocol):
    """Tells the client which worker it is with."""

    def __init__(self, worker: int) -> None:
        self._worker = worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(bytes([self._worker]))


def _listening(port: int = 0, *, shared: bool = False) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen(1024)
    made.setblocking(False)
    return made


async def _accept(worker: int, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Greeter(worker), sock=listener)
    await server.serve_forever()


async def _receive(worker: int, control: socket.socket) -> None:
    loop = asyncio.get_running_loop()

    def readable() -> None:
        _, ancillary, _, _ = control.recvmsg(16, socket.CMSG_SPACE(4))
        (number,) = array.array("i", ancillary[0][2])
        adopted = loop.create_task(
            loop.connect_accepted_socket(lambda: _Greeter(worker), socket.socket(fileno=number))
        )
        adopted.add_done_callback(lambda task: task.result())

    loop.add_reader(control, readable)
    await asyncio.Event().wait()


def _work(
    main: Callable[[int, socket.socket], Coroutine[None, None, None]],
    worker: int,
    shared: socket.socket,
) -> None:
    uvloop.run(main(worker, shared))


def _forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    return pid


def _deal(listener: socket.socket, controls: list[socket.socket]) -> None:
    """Pass each connection on in turn: with no connection ended, that is to whom has the fewest."""
    listener.setblocking(True)
    turn = 0
    while True:
        accepted, _ = listener.accept()
        with accepted:
            socket.send_fds(controls[turn % len(controls)], [b"c"], [accepted.fileno()])
        turn += 1


@contextlib.contextmanager
def served(way: str, workers: int) -> Iterator[int]:
    """The port of a server with so many workers."""
    first = _listening(shared=way == "reuseport")
    port = first.getsockname()[1]
    listeners = [first] * workers
    if way == "reuseport":
        listeners = [first, *(_listening(port, shared=True) for _ in range(workers - 1))]
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]
    pids = []
    for number in range(workers):
        control, listener = pairs[number][1], listeners[number]
        work = _receive if way == "passed" else _accept
        shared = control if way == "passed" else listener
        pids.append(_forked(functools.partial(_work, work, number, shared)))
    if way == "passed":
        pids.append(_forked(lambda: _deal(first, [ours for ours, _ in pairs])))
    for each in {*listeners, *(end for pair in pairs for end in pair)}:
        each.close()
    try:
        yield port
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _connect(port: int) -> tuple[socket.socket, int]:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    return connection, connection.recv(1)[0]


def spread(port: int, workers: int, connections: int) -> list[int]:
    """How many of so many held connections each worker has, most first."""
    counts = [0] * workers
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            connection, worker = _connect(port)
            stack.enter_context(connection)
            counts[worker] += 1
    return sorted(counts, reverse=True)


def rate(port: int) -> float:
    """Connections a second that several clients make at once."""

    def clients() -> None:
        for _ in range(RATE_CONNECTIONS // CLIENT_THREADS):
            _connect(port)[0].close()

    threads = [threading.Thread(target=clients) for _ in range(CLIENT_THREADS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return RATE_CONNECTIONS / (time.perf_counter() - started)


def main() -> None:
    """Print the table."""
    print("| workers | way | 8 connections | 16 | 64 | connections/s |")
    print("|---|---|---|---|---|---|")
    for workers in (2, 4):
        for way in WAYS:
            cells = []
            for connections in (8, 16, 64):
                found = []
                for _ in range(ROUNDS):
                    with served(way, workers) as port:
                        found.append(spread(port, workers, connections))
                found.sort(key=lambda counts: counts[0])
                typical, worst = found[len(found) // 2], found[-1]
                cells.append(f"{_shown(typical)}, worst {_shown(worst)}")
            with served(way, workers) as port:
                rates = statistics.median(rate(port) for _ in range(3))
            print(f"| {workers} | {way} | {' | '.join(cells)} | {rates:,.0f} |", flush=True)


def _shown(counts: list[int]) -> str:
    return "/".join(map(str, counts))


if __name__ == "__main__":
    main()
