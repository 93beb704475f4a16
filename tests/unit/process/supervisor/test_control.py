"""The control socket: authorization, responses, and slow clients that do not block it."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from sftp_gateway.auth.penalties import Offence
from sftp_gateway.observability.access_log.events import Event, SourceUnbanned
from sftp_gateway.process.loop import Loop
from sftp_gateway.process.supervisor import control
from sftp_gateway.process.supervisor.admission import AdmissionPolicy
from sftp_gateway.process.supervisor.control import PAGE, Client, Control
from sftp_gateway.settings import Settings
from tests.support.gateway import TIMEOUT

T = TypeVar("T")

#: More than fit into one page.
SOURCES = [f"198.51.{number >> 8}.{number & 255}" for number in range(PAGE * 2 + 50)]


@pytest.fixture(autouse=True, scope="module")
def _no_subreaper() -> Iterator[None]:
    """Restore the init process as the parent of other tests' orphans."""
    yield
    ctypes.CDLL(None).prctl(control._PR_SET_CHILD_SUBREAPER, 0)


class ControlledGateway:
    """A control socket with an admission policy, served while a test command runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.events: list[Event] = []
        self.policy = AdmissionPolicy(settings, emit=self.events.append)
        self.loop = Loop()
        self.listener = control.listen(settings)
        self.control = Control(loop=self.loop, listener=self.listener, policy=self.policy)

    def ban(self, source: str) -> None:
        for _ in range(8):
            if self.policy.rejection_reason(source) is None:
                number = self.policy.connections.add(0, source)
                self.policy.left(number, 0, Offence.FAILED_LOGIN)

    def while_it_runs(self, command: Callable[[], T]) -> T:
        found: list[T] = []

        def run() -> None:
            try:
                found.append(command())
            finally:
                self.loop.stop()
                self.loop._wake.send(b"\0")

        self.loop._running = True
        thread = threading.Thread(target=run)
        thread.start()
        self.loop.run()
        thread.join()
        return found[0]


@pytest.fixture
def served(unconfigured: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlledGateway]:
    # The client is this process or a descendant.
    monkeypatch.setattr(control, "_descends_from_us", lambda pid: False)
    made = ControlledGateway(Settings())
    made.loop.add_reader(made.loop._woken, lambda: made.loop._woken.recv(1) and None)
    yield made
    for each in (*made.control._clients, made.listener):
        each.close()
    made.loop.close()


def test_any_number_of_bans_can_be_listed_and_lifted(served: ControlledGateway) -> None:
    for source in SOURCES:
        served.ban(source)

    def ask() -> tuple[list[str], list[str], list[str], list[str]]:
        with Client(served.settings) as client:
            assert len(client._ask({"bans": 0})["bans"]) == PAGE
            listed = [ban.source for ban in client.bans()]
            one = client.lift(SOURCES[:1])
            return listed, one, client.lift(None), [ban.source for ban in client.bans()]

    listed, one, rest, after = served.while_it_runs(ask)
    assert (listed, one, rest, after) == (SOURCES, SOURCES[:1], SOURCES[1:], [])
    reap = [event.source for event in served.events if isinstance(event, SourceUnbanned)]
    assert reap == SOURCES


@pytest.mark.parametrize(
    "request_", [b"{", b"[]", b"0", b"[" * 9999, b'{"bans":-1}', b'{"lift":["x"]}', b"\xff"]
)
def test_an_invalid_request_gets_an_error(served: ControlledGateway, request_: bytes) -> None:
    def ask() -> bytes:
        with Client(served.settings) as client:
            client._socket.send(request_)
            return client._socket.recv(1 << 16)

    assert list(json.loads(served.while_it_runs(ask))) == ["error"]


def test_silent_clients_time_out(
    served: ControlledGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_CLIENT_TIMEOUT", 0.1)

    def ask() -> tuple[bytes, list[object]]:
        idle = [Client(served.settings) for _ in range(8)]
        with Client(served.settings) as refused:
            last = refused._socket.recv(1)
        for each in idle:
            assert each._socket.recv(1) == b""
            each._socket.close()
        with Client(served.settings) as client:
            return last, list(client.bans())

    assert served.while_it_runs(ask) == (b"", [])


def test_only_root_and_the_gateways_user_are_served(served: ControlledGateway) -> None:
    path = control.path_of(served.settings).absolute()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if os.geteuid():
        pytest.skip("only root can become another user")
    path.parent.chmod(0o755)
    path.chmod(0o666)  # as if made world-writable

    def ask() -> int:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.chdir(path.parent)
                os.setuid(65534)
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made:
                    made.connect(path.name)
                    made.settimeout(TIMEOUT)
                    status = 0 if made.recv(1) == b"" else 2
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert served.while_it_runs(ask) == 0


def test_descendants_of_the_gateway_are_recognized() -> None:
    assert control._descends_from_us(os.getpid())
    assert not control._descends_from_us(os.getppid())
    assert not control._descends_from_us(1)
    child = os.fork()
    if child == 0:
        os.read(0, 1)
        os._exit(0)
    assert control._descends_from_us(child)
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert control._descends_from_us(child)  # exited: unknown


def test_a_stale_socket_is_replaced(unconfigured: Path) -> None:
    settings = Settings()
    control.listen(settings).close()
    control.listen(settings).close()
    path = control.path_of(settings)
    path.unlink()
    path.write_bytes(b"somebody's file")
    with pytest.raises(OSError, match="in use"):
        control.listen(settings)
    assert path.read_bytes() == b"somebody's file"
