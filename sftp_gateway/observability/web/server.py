"""Serves HTTP such that no client can exclude others: health checks are always answered.

One thread reads requests and writes responses, and never waits for a client; a few others make the
responses that take time. At MAX_CONNECTIONS, a new connection replaces the oldest of the source
with the most: a health check sends its request at once, a silent client is the oldest.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections import Counter, deque
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.web.routes import (
    MAX_HEAD_LENGTH,
    Application,
    Probe,
    Render,
    Router,
    is_complete,
    is_health_check,
    respond,
)

#: Seconds for a request to arrive, and for its response to be read.
REQUEST_TIMEOUT: Final = 5.0

#: Connections at once.
MAX_CONNECTIONS: Final = 64

#: Threads that make responses.
THREADS: Final = 4

#: Connections accepted at once, before existing ones are served.
_BATCH: Final = 16

#: Seconds to wait if no connection can be accepted, for lack of descriptors.
_ACCEPT_BACKOFF: Final = 0.1

_logger = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket for the endpoint; port 0 is any free one.

    Raises ConfigurationError if the address is not available.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        raise ConfigurationError(
            [
                f"metrics_port: cannot listen on {host} port {port}:"
                f" {error.strerror or error}; choose a port that is free, and an address of"
                " this machine for metrics_host"
            ]
        ) from error


@dataclass(eq=False, slots=True)
class _Connection:
    socket: socket.socket
    source: str
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    answering: Future[bytes] | None = None
    answer: memoryview | None = None


class ObservabilityServer:
    """Serves metrics, health and `status_app` on a listening socket.

    `names` are those of the endpoint, as Router has them.
    """

    def __init__(
        self,
        *,
        listener: socket.socket,
        render: Render,
        probe: Probe,
        status_app: Application | None = None,
        names: Collection[str] = (),
    ) -> None:
        self._router = Router(render=render, probe=probe, status_app=status_app, names=names)
        self._listener = listener
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._answered: deque[_Connection] = deque()
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._stopping = threading.Event()
        self._answers = ThreadPoolExecutor(THREADS, thread_name_prefix="http")
        self._thread = threading.Thread(target=self._run, name="observability", daemon=True)

    def start(self) -> None:
        """Start to serve."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening, in every process that has the socket. Running requests are aborted."""
        self._stopping.set()
        self._wake_up()
        if self._thread.is_alive():
            self._thread.join()
        self._answers.shutdown(wait=False, cancel_futures=True)
        with suppress(OSError):  # it is closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in (*(one.socket for one in self._connections), self._listener):
            each.close()
        for end in (self._selector, self._woken, self._wake):
            end.close()

    def _wake_up(self) -> None:
        with suppress(OSError):  # it is awake, or closed
            self._wake.send(b"\0")

    def _run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        while not self._stopping.is_set():
            for key, _ in self._selector.select(self._until_deadline()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._woken.recv(4096)
                elif key.data in self._connections:  # it may have made room in this turn
                    self._continue(key.data)
            while self._answered:
                connection = self._answered.popleft()
                if connection in self._connections and connection.answering is not None:
                    self._begin_answer(connection, connection.answering.result())
            self._drop_late()

    # Connections

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                _logger.error("no HTTP connection can be accepted: %s", error)
                self._stopping.wait(_ACCEPT_BACKOFF)
                return
            if len(self._connections) >= MAX_CONNECTIONS and not self._make_room():
                accepted.close()
                continue
            accepted.setblocking(False)
            connection = _Connection(accepted, str(address[0]), monotonic() + REQUEST_TIMEOUT)
            self._connections[connection] = None
            self._selector.register(accepted, selectors.EVENT_READ, connection)
            self._continue(connection)  # most have sent their request already

    def _make_room(self) -> bool:
        """Drop the oldest connection of the source with the most; False if all are in work."""
        each_has = Counter(connection.source for connection in self._connections)
        for connection in sorted(self._connections, key=lambda one: -each_has[one.source]):
            if connection.answering is None or connection.answering.cancel():
                self._drop(connection)
                return True
        return False

    def _until_deadline(self) -> float | None:
        deadlines = [one.deadline for one in self._connections if one.answering is None]
        return max(0.0, min(deadlines) - monotonic()) if deadlines else None

    def _drop_late(self) -> None:
        now = monotonic()
        for connection in tuple(self._connections):
            if connection.answering is None and connection.deadline <= now:
                self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection]
        with suppress(KeyError):  # while its answer is made, it is not watched
            self._selector.unregister(connection.socket)
        connection.socket.close()

    # Requests

    def _continue(self, connection: _Connection) -> None:
        """Read or write what is possible now."""
        try:
            if connection.answer is None:
                self._read(connection)
            else:
                self._write(connection, connection.answer)
        except BlockingIOError:
            pass
        except OSError:  # clients that hang up are no news
            self._drop(connection)

    def _read(self, connection: _Connection) -> None:
        received = connection.socket.recv(MAX_HEAD_LENGTH)
        connection.received += received
        if not received:
            self._drop(connection)
        elif is_complete(connection.received):
            request = bytes(connection.received)
            if is_health_check(request):
                self._begin_answer(connection, respond(self._router, request))
            else:
                self._selector.unregister(connection.socket)
                connection.answering = self._answers.submit(respond, self._router, request)
                connection.answering.add_done_callback(lambda _: self._on_answered(connection))

    def _on_answered(self, connection: _Connection) -> None:
        self._answered.append(connection)
        self._wake_up()

    def _begin_answer(self, connection: _Connection, answer: bytes) -> None:
        connection.answering = None
        connection.answer = memoryview(answer)
        connection.deadline = monotonic() + REQUEST_TIMEOUT
        with suppress(KeyError):  # it was not watched while the answer was made
            self._selector.unregister(connection.socket)
        self._selector.register(connection.socket, selectors.EVENT_WRITE, connection)
        self._continue(connection)

    def _write(self, connection: _Connection, answer: memoryview) -> None:
        connection.answer = answer[connection.socket.send(answer) :]
        if not connection.answer:
            connection.socket.shutdown(socket.SHUT_WR)
            self._drop(connection)
