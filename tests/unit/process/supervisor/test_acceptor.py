"""Whose connections wait before they are passed on."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from sftp_gateway.process.supervisor.acceptor import _MAX_HELD, Acceptor
from sftp_gateway.process.supervisor.admission import HOLD, AdmissionPolicy
from sftp_gateway.settings import Settings


class ManualLoop:
    """Makes its calls when the test says so."""

    def __init__(self) -> None:
        self.readable: Callable[[], None] = lambda: None
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def add_reader(self, readable: socket.socket, call: Callable[[], None]) -> None:
        self.readable = call

    def remove_reader(self, readable: socket.socket) -> None:
        self.readable = lambda: None

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.timers.append((seconds, call))

    def fire(self) -> None:
        timers, self.timers = self.timers, []
        for _, call in timers:
            call()


class OneWorker:
    """Takes whatever it is passed."""

    def __init__(self) -> None:
        self.passed: list[int] = []

    def candidates(self) -> list[int]:
        return [0]

    def dispatch(self, worker: int, number: int, connection: socket.socket) -> bool:
        self.passed.append(number)
        return True


class House:
    """A door, a gate and a worker; `connect` is a client that connects."""

    def __init__(self) -> None:
        self.now = 100.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.loop, self.worker = ManualLoop(), OneWorker()
        self.policy = AdmissionPolicy(Settings(), emit=lambda event: None, clock=lambda: self.now)
        self.acceptor = Acceptor(
            loop=self.loop,  # type: ignore[arg-type]
            listener=self.listener,
            workers=self.worker,  # type: ignore[arg-type]
            policy=self.policy,
            emit=lambda event: None,
        )
        self.acceptor.update()
        self.clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        self.clients.append(socket.create_connection(self.listener.getsockname(), timeout=5))
        self.loop.readable()
        return self.clients[-1]

    def interrupted(self, *, user: str = "gvpocr") -> None:
        number = self.policy.connections.add(0, "127.0.0.1")
        if user:
            self.policy.logged_in(number, 0, user)
        self.policy.interrupted(number, 0)
        self.policy.left(number, 0, None)


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.acceptor.close()
    for client in made.clients:
        client.close()


def test_a_client_whose_connection_was_interrupted_waits(house: House) -> None:
    house.interrupted()
    house.now += HOLD / 2
    house.connect()
    assert not house.worker.passed
    assert [seconds for seconds, _ in house.loop.timers] == [pytest.approx(HOLD / 2)]
    house.loop.fire()
    assert len(house.worker.passed) == 1


def test_a_client_whose_worker_was_killed_waits(house: House) -> None:
    number = house.policy.connections.add(0, "127.0.0.1")
    house.policy.logged_in(number, 0, "gvpocr")
    house.policy.worker_ended(0)
    house.connect()
    assert not house.worker.passed


def test_others_do_not_wait(house: House) -> None:
    house.connect()
    house.interrupted(user="")
    house.connect()
    house.interrupted()
    house.now += HOLD
    house.connect()
    assert len(house.worker.passed) == 3


def test_only_so_many_wait(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftp_gateway.process.supervisor.acceptor._MAX_HELD", 2)
    assert _MAX_HELD >= 2
    house.interrupted()
    for _ in range(3):
        house.connect()
    assert len(house.worker.passed) == 1


def test_who_waits_is_let_go_of_when_the_door_closes(house: House) -> None:
    house.interrupted()
    client = house.connect()
    house.acceptor.close()
    house.loop.fire()
    assert client.recv(1) == b""
    assert not house.worker.passed


def test_sources_are_forgotten_when_their_time_is_over(house: House) -> None:
    house.interrupted()
    house.now += HOLD
    house.policy.tick()
    assert not house.policy._held_until
