"""Accepts connections, and passes each to a worker or closes it.

While no worker takes them, because none serves or all have as many waiting as their sockets hold,
they wait in the listening socket's backlog: nobody is refused for a worker's sake.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable
from time import time as unix_time
from typing import Final

from sftp_gateway.auth.addresses import unmapped
from sftp_gateway.observability.access_log.events import ConnectionsRefused, Event
from sftp_gateway.process.loop import Loop
from sftp_gateway.process.supervisor.admission import AdmissionPolicy
from sftp_gateway.process.supervisor.workers import Workers

#: Connections accepted in one turn: signals and workers have theirs in between.
_BATCH: Final = 16

#: Seconds of rest when no connection can be accepted for want of descriptors or memory, and when no
#: worker can be passed one.
_REST: Final = 0.5
_BUSY_REST: Final = 0.01

#: Connections that wait because those before were interrupted (Gate.hold_of). Others are passed on.
_MAX_HELD: Final = 1024

#: Seconds between two lines of the access log about refused connections.
_QUIET: Final = 5.0

_log = logging.getLogger(__name__)


class _RefusalSummary:
    """Refused connections that the access log has not told of; reason and source of the last."""

    def __init__(self) -> None:
        self.count = 0
        self.reason = self.source = ""
        self.since = 0.0

    def add(self, reason: str, source: str) -> None:
        self.since = self.since or unix_time()
        self.count += 1
        self.reason, self.source = reason, source


class Acceptor:
    """The listening socket."""

    def __init__(
        self,
        *,
        loop: Loop,
        listener: socket.socket,
        workers: Workers,
        policy: AdmissionPolicy,
        emit: Callable[[Event], None],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._workers = workers
        self._policy = policy
        self._connections = policy.connections
        self._emit = emit
        self._open = self._resting = self._closed = False
        #: Who was let in and waits for a worker, with their addresses: the one that none could
        #: take, and those of a worker that has ended.
        self._waiting: deque[tuple[socket.socket, str]] = deque()
        self._held: set[socket.socket] = set()
        self._untold = _RefusalSummary()
        self._quiet = False

    def update(self) -> None:
        """Accept or not, as there are workers or not."""
        while self._waiting and self._may_pass_on() and self._pass_on(*self._waiting[0]):
            self._waiting.popleft()[0].close()
        wanted = self._may_pass_on() and not self._waiting
        if wanted and not self._open:
            self._loop.watch(self._listener, self._accept_some)
        elif self._open and not wanted:
            self._loop.unwatch(self._listener)
        self._open = wanted

    def take_back(self, connection: socket.socket, source: str) -> None:
        """Let a connection, which was let in before, wait for another worker."""
        self._waiting.append((connection, source))
        if self._closed:
            self.abandon()

    def close(self) -> None:
        """Accept no more: who comes now is refused by the kernel."""
        self._closed = True
        self.update()
        self.abandon()

    def abandon(self) -> None:
        """Let go of the socket and of who waits; in a child, of what was the parent's."""
        self._listener.close()
        while self._waiting:
            self._waiting.popleft()[0].close()
        while self._held:
            self._held.pop().close()

    def _may_pass_on(self) -> bool:
        return not self._resting and not self._closed and bool(self._workers.candidates())

    def _accept_some(self) -> None:
        for _ in range(_BATCH):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("connections cannot be accepted: %s", error)
                self._rest(_REST)
                self.update()
                return
            if not self._let_in(connection, unmapped(address[0])):
                self.update()
                return

    def _let_in(self, connection: socket.socket, source: str) -> bool:
        """Pass the connection on, or close it; False where it has to wait."""
        reason = self._policy.rejection_reason(source)
        if reason is not None:
            self._refuse(reason, source)
        elif (hold := self._policy.hold_seconds(source)) and len(self._held) < _MAX_HELD:
            self._hold(connection, source, hold)
            return True
        elif not self._pass_on(connection, source):
            self._waiting.append((connection, source))
            return False
        connection.close()
        return True

    def _hold(self, connection: socket.socket, source: str, seconds: float) -> None:
        """Let it wait for so long, and then for a worker."""

        def release() -> None:
            if connection in self._held:
                self._held.remove(connection)
                self._waiting.append((connection, source))
                self.update()

        self._held.add(connection)
        self._loop.later(seconds, release)

    def _pass_on(self, connection: socket.socket, source: str) -> bool:
        """Give the connection to a worker; where none can take it now, rest."""
        for worker in self._connections.least_loaded_first(self._workers.candidates()):
            number = self._connections.add(worker, source)
            if self._workers.pass_on(worker, number, connection):
                return True
            self._connections.remove(number, worker)
        self._rest(_BUSY_REST)
        return False

    def _rest(self, seconds: float) -> None:
        def awake() -> None:
            self._resting = False
            self.update()

        self._resting = True
        self._loop.later(seconds, awake)

    def _refuse(self, reason: str, source: str) -> None:
        """Tell: the first at once, what follows in one line every few seconds."""
        self._untold.add(reason, source)
        if not self._quiet:
            self._tell()

    def _tell(self) -> None:
        self._quiet = bool(self._untold.count)
        if self._quiet:
            busiest, most = self._connections.busiest()
            self._emit(
                ConnectionsRefused(
                    reason=self._untold.reason,
                    count=self._untold.count,
                    since=self._untold.since,
                    client_ip=self._untold.source,
                    open=self._connections.total,
                    busiest_ip=busiest,
                    busiest_open=most,
                )
            )
            self._untold = _RefusalSummary()
            self._loop.later(_QUIET, self._tell)
