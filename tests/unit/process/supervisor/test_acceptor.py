"""Which connections wait before they are dispatched."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from sftp_gateway.process.supervisor.acceptor import _MAX_HELD, Acceptor
from sftp_gateway.process.supervisor.admission import HOLD, AdmissionPolicy
from sftp_gateway.settings import Settings
from tests.support.gateway import TIMEOUT


class ManualLoop:
    """An event loop whose timers fire on demand."""

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
    """Accepts every connection."""

    def __init__(self) -> None:
        self.passed: list[int] = []

    def candidates(self) -> list[int]:
        return [0]

    def dispatch(self, worker: int, number: int, connection: socket.socket) -> bool:
        self.passed.append(number)
        return True


class Harness:
    """An acceptor with its admission policy and a worker; `connect` connects a client."""

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
        self.clients.append(socket.create_connection(self.listener.getsockname(), timeout=TIMEOUT))
        self.loop.readable()
        return self.clients[-1]

    def interrupted(self, *, user: str = "gvpocr") -> None:
        number = self.policy.connections.add(0, "127.0.0.1")
        if user:
            self.policy.logged_in(number, 0, user)
        self.policy.interrupted(number, 0)
        self.policy.left(number, 0, None)


@pytest.fixture
def harness() -> Iterator[Harness]:
    made = Harness()
    yield made
    made.acceptor.close()
    for client in made.clients:
        client.close()


def test_a_client_with_an_interrupted_connection_waits(harness: Harness) -> None:
    harness.interrupted()
    harness.now += HOLD / 2
    harness.connect()
    assert not harness.worker.passed
    assert [seconds for seconds, _ in harness.loop.timers] == [pytest.approx(HOLD / 2)]
    harness.loop.fire()
    assert len(harness.worker.passed) == 1


def test_a_client_of_a_killed_worker_waits(harness: Harness) -> None:
    number = harness.policy.connections.add(0, "127.0.0.1")
    harness.policy.logged_in(number, 0, "gvpocr")
    harness.policy.worker_ended(0)
    harness.connect()
    assert not harness.worker.passed


def test_other_clients_do_not_wait(harness: Harness) -> None:
    harness.connect()
    harness.interrupted(user="")
    harness.connect()
    harness.interrupted()
    harness.now += HOLD
    harness.connect()
    assert len(harness.worker.passed) == 3


def test_waiting_clients_are_bounded(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftp_gateway.process.supervisor.acceptor._MAX_HELD", 2)
    assert _MAX_HELD >= 2
    harness.interrupted()
    for _ in range(3):
        harness.connect()
    assert len(harness.worker.passed) == 1


def test_waiting_clients_are_closed_with_the_acceptor(harness: Harness) -> None:
    harness.interrupted()
    client = harness.connect()
    harness.acceptor.close()
    harness.loop.fire()
    assert client.recv(1) == b""
    assert not harness.worker.passed


def test_expired_sources_are_removed(harness: Harness) -> None:
    harness.interrupted()
    harness.now += HOLD
    harness.policy.tick()
    assert not harness.policy._held_until
