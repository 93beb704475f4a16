"""The supervisor's events reach the current or next observer without blocking."""

from __future__ import annotations

import os
import pickle
import socket
from typing import Any

from sftp_gateway.observability.access_log import relay
from sftp_gateway.observability.access_log.events import LogDropped, WorkerStarted
from sftp_gateway.observability.metrics.shared_memory import Memory
from sftp_gateway.process.observer import ObserverHandle
from tests.support.measured import gateway_state


def unpickled(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301 - this test's own


def received_by(end: socket.socket) -> list[Any]:
    """All messages sent to this end so far."""
    end.setblocking(False)
    found = []
    while True:
        try:
            data = end.recv(1 << 18)
        except BlockingIOError:
            return found
        if not data:
            return found
        found.append(unpickled(data))


def event(number: int) -> WorkerStarted:
    return WorkerStarted(time=0.0, worker=number, pid=number)


def test_events_and_states_are_sent_at_once() -> None:
    observer = ObserverHandle()
    with observer.connect() as end:
        observer.emit(event(1))
        state = gateway_state()
        observer.send_state(state)
        assert received_by(end) == [event(1), state]
    observer.close()


def test_events_without_an_observer_go_to_the_next() -> None:
    observer = ObserverHandle()
    observer.emit(event(1))
    observer.connect().close()  # an observer that ends at once
    observer.emit(event(2))
    with observer.connect() as end:
        observer.send_state(gateway_state())
        assert received_by(end)[:2] == [event(1), event(2)]
    observer.close()


def test_a_stalled_observer_delays_nobody_and_losses_are_reported() -> None:
    observer = ObserverHandle()
    with observer.connect() as end:
        for number in range(3000):
            observer.emit(event(number))
        received: list[Any] = []
        while not any(isinstance(each, LogDropped) for each in received):
            received += received_by(end)
            observer.send_state(gateway_state())
        events = [each for each in received if isinstance(each, WorkerStarted)]
        lost = [each for each in received if isinstance(each, LogDropped)]
        assert [each.worker for each in events] == list(range(len(events)))
        assert [each.count for each in lost] == [3000 - len(events)]
        assert len(events) > 1000
    observer.close()


def receive(end: socket.socket) -> list[tuple[str, list[int]]]:
    """The writers announced to an observer so far, with their descriptors."""
    end.setblocking(False)
    found = []
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(end, 1 << 18, 9)
        except BlockingIOError:
            return found
        if descriptors:
            found.append((unpickled(data), descriptors))


def test_a_worker_is_announced_once_and_the_next_observer_inherits_it() -> None:
    observer = ObserverHandle()
    memory = Memory.make()
    sender, receiver = relay.socket_pair()
    observer.add_worker("worker0", receiver, memory)
    with observer.connect() as end:
        observer.send_state(gateway_state())
        assert receive(end) == []
        assert observer.logs == [receiver]
        ending, other = relay.socket_pair()
        observer.add_worker("worker1", other, memory)
        ending.close()
        observer.send_state(gateway_state())
        ((writer, sent),) = receive(end)
        assert writer == "worker1"
        for descriptor, original in zip(
            sent, (other.fileno(), memory.counts, memory.gauges), strict=True
        ):
            assert os.path.sameopenfile(descriptor, original)
            os.close(descriptor)
    sender.send(b"line")
    sender.close()
    observer.prune_logs()
    assert receiver in observer.logs  # it is not drained yet
    receiver.recv(10)
    observer.prune_logs()
    assert observer.logs == []
    observer.close()
    memory.close()


def test_closing_the_channel_ends_the_observer() -> None:
    observer = ObserverHandle()
    with observer.connect() as end:
        observer.emit(event(1))
        observer.close()
        end.setblocking(True)
        assert unpickled(end.recv(1 << 18)).worker == 1
        assert end.recv(1 << 18) == b""
