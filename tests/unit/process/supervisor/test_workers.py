"""Valid messages from workers are handled; an invalid one kills the worker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from sftp_gateway.auth.penalties import Offence
from sftp_gateway.observability.access_log.events import Event
from sftp_gateway.process import messages
from sftp_gateway.process.loop import Loop
from sftp_gateway.process.supervisor.admission import AdmissionPolicy
from sftp_gateway.process.supervisor.worker_handle import WorkerHandle
from sftp_gateway.process.supervisor.workers import Workers
from sftp_gateway.settings import Settings, UserSettings
from tests.support.gateway import TIMEOUT


class Fleet:
    """Workers whose idle processes are impersonated by the test."""

    def __init__(self, **options: object) -> None:
        self.loop = Loop()
        self.policy = AdmissionPolicy(Settings(**options), emit=lambda event: None)
        self.workers = Workers(loop=self.loop, policy=self.policy, events=self)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ends: list[socket.socket] = []
        self.requeued: list[tuple[socket.socket, str]] = []

    # As the supervisor

    def start_worker(self, number: int, control: socket.socket) -> int:
        self.ends.append(socket.socket(fileno=os.dup(control.fileno())))
        self.processes.append(subprocess.Popen(["sleep", "600"]))
        return self.processes[-1].pid

    def emit(self, event: Event) -> None:
        pass

    def workers_changed(self) -> None:
        pass

    def worker_ended(self, worker: WorkerHandle) -> None:
        pass

    def requeue(self, connection: socket.socket, source: str) -> None:
        self.requeued.append((connection, source))

    # As a test

    def connect(self, worker: int = 0, source: str = "192.0.2.1") -> int:
        return self.policy.connections.add(worker, source)

    def say(self, worker: int, message: bytes) -> None:
        self.ends[worker].send(message)

    def until(self, look: Callable[[], object]) -> None:
        """Run the loop until `look` is true; once only, as it cannot run again."""
        given_up = []

        def poll() -> None:
            if look():
                self.loop.stop()
            else:
                self.loop.call_later(0.01, poll)

        def give_up() -> None:
            given_up.append(True)
            self.loop.stop()

        self.loop.call_later(0, poll)
        self.loop.call_later(TIMEOUT, give_up)
        self.loop.run()
        assert not given_up

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for end in (*self.ends, *(connection for connection, _ in self.requeued)):
            end.close()
        for worker in self.workers._workers.values():
            for end in filter(None, (worker.control, worker.worker_end)):
                end.close()
        self.loop.close()


@pytest.fixture
def make(unconfigured: object) -> Iterator[Callable[..., Fleet]]:
    made: list[Fleet] = []
    woken = signal.set_wakeup_fd(-1)

    def fleet(count: int = 1, **options: object) -> Fleet:
        made.append(Fleet(**options))
        made[-1].workers.set_target(count, generation=0, drain_timeout=1)
        return made[-1]

    yield fleet
    for each in made:
        each.close()
    signal.set_wakeup_fd(woken)


@pytest.mark.parametrize(
    "message",
    [
        b"not JSON",
        b"{}",
        b"[]",
        messages.encode("penalty", "192.0.2.1", "crash"),
        messages.encode("login", 1),
        messages.encode("login", "1", "gvpocr", "SHA256:key"),
        messages.encode("login", 1, "x" * 33, "SHA256:key"),
        messages.encode("login", 1, "gvpocr", "x" * 65),
        messages.encode("login", 1, ["gvpocr"], "SHA256:key"),
        messages.encode("login", 1, "gvpocr", 2),
        messages.encode("login", 1, "gvpocr"),
        messages.encode("login", 1, "gvpocr", "SHA256:key", "more"),
        messages.encode("ended", 1),
        messages.encode("ended", 1, "no_such_kind"),
        messages.encode("ended", 1, 5),
        messages.encode("ended", 1.5, None),
        messages.encode("ended", 1, "crash", "192.0.2.1"),
    ],
)
def test_a_worker_that_sends_an_invalid_message_is_killed(
    make: Callable[..., Fleet], message: bytes
) -> None:
    fleet = make()
    fleet.connect()
    fleet.say(0, message)
    fleet.until(lambda: fleet.processes[0].poll() == -signal.SIGKILL)
    assert fleet.policy.penalties == {}
    assert fleet.policy.connections.unauthenticated == 1


def test_a_worker_that_sends_descriptors_is_killed(
    make: Callable[..., Fleet],
) -> None:
    fleet = make()
    before = os.listdir("/proc/self/fd")
    for count in (1, 5, 253):
        message = messages.encode("status", {})
        socket.send_fds(fleet.ends[0], [message], [fleet.ends[0].fileno()] * count)
    fleet.until(lambda: fleet.processes[0].poll() == -signal.SIGKILL)
    assert os.listdir("/proc/self/fd") == before


def test_a_worker_can_report_its_own_connections_only(make: Callable[..., Fleet]) -> None:
    fleet = make(2)
    first, second = fleet.connect(0), fleet.connect(1)
    for number in (first, second):
        fleet.say(0, messages.encode("ended", number, Offence.CRASH))
    fleet.until(lambda: fleet.policy.connections.total == 1)
    assert fleet.policy.penalties == {"crash": 1}
    assert [process.poll() for process in fleet.processes] == [None, None]


def test_a_session_over_the_limit_is_dismissed(make: Callable[..., Fleet]) -> None:
    fleet = make(max_sessions_per_user=1)
    for number in (fleet.connect(), fleet.connect()):
        fleet.say(0, messages.encode("login", number, "gvpocr", "SHA256:key"))
    fleet.until(lambda: fleet.policy.connections.unauthenticated == 0)
    (message,) = messages.receive(fleet.ends[0])
    assert message == ["dismiss", 2]


def test_session_fractions_are_sent_to_workers_once(
    make: Callable[..., Fleet],
) -> None:
    fleet = make(2, users={"gvpocr": UserSettings(bandwidth_limit=1_000_000)})
    numbers = [fleet.connect(worker) for worker in (0, 0, 0, 1)]
    for worker, number in zip((0, 0, 0, 1), numbers, strict=True):
        fleet.say(worker, messages.encode("login", number, "gvpocr", "SHA256:key"))
    fleet.until(lambda: fleet.policy.connections.unauthenticated == 0)
    for _ in range(2):
        fleet.workers.send_session_fractions()
    received = [list(messages.receive(end)) for end in fleet.ends]
    assert received == [[["sessions", "gvpocr", 0.75]], [["sessions", "gvpocr", 0.25]]]
    fleet.policy.left(numbers[3], 1, None)
    fleet.workers.send_session_fractions()
    received = [list(messages.receive(end)) for end in fleet.ends]
    assert received == [[["sessions", "gvpocr", 1.0]], [["sessions", "gvpocr", 0.0]]]
