"""The supervisor's event loop: readers, timers and signals."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from sftp_gateway.process.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    loop = Loop()
    yield loop
    loop.close()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_timers_are_called_in_order(loop: Loop) -> None:
    called: list[int] = []
    for number in (3, 1, 2):
        loop.call_later(number / 1000, lambda number=number: called.append(number))  # type: ignore[misc]
    loop.call_later(0.004, loop.stop)
    loop.run()
    assert called == [1, 2, 3]


def test_a_cancelled_timer_is_not_called(loop: Loop) -> None:
    called: list[str] = []
    loop.call_later(0.0, lambda: called.append("cancelled")).cancel()
    loop.call_later(0.001, loop.stop)
    loop.run()
    assert called == []


def test_a_reader_is_called_until_it_is_removed(
    loop: Loop, socket_pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = socket_pair
    theirs.send(b"ab")
    receive: list[bytes] = []

    def readable() -> None:
        receive.append(ours.recv(1))
        if len(receive) == 2:
            loop.remove_reader(ours)
            theirs.send(b"c")
            loop.call_later(0.001, loop.stop)

    loop.add_reader(ours, readable)
    loop.run()
    assert receive == [b"a", b"b"]


def test_a_reader_removed_in_the_same_turn_is_not_called(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[socket.socket] = []

    def readable(own: socket.socket, other: socket.socket) -> None:
        called.append(own)
        loop.remove_reader(own)
        loop.remove_reader(other)
        other.close()
        loop.stop()

    (one, to_one), (two, to_two) = pairs
    loop.add_reader(one, lambda: readable(one, two))
    loop.add_reader(two, lambda: readable(two, one))
    to_one.send(b"x")
    to_two.send(b"x")
    loop.run()
    assert len(called) == 1
    for end in (one, two, to_one, to_two):
        end.close()


def test_signals_are_handled_in_the_loop_once_per_kind(loop: Loop) -> None:
    received: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        received.append(number)
        if len(received) == 2:
            loop.stop()

    loop.on_signals((signal.SIGUSR1, signal.SIGUSR2), on_signal)
    for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    loop.run()
    assert received == [signal.SIGUSR1, signal.SIGUSR2]
