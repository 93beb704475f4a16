"""Accepts connections, and passes each to a worker or closes it.

While no worker can take them, because none serves or all their sockets are full, connections wait
in the listening socket's backlog; none is refused for that.
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

#: Connections accepted in one turn of the event loop; signals and workers come between.
_BATCH: Final = 16

#: Seconds without accepting when descriptors or memory run out, and when no worker has room.
_EXHAUSTED_PAUSE: Final = 0.5
_BUSY_PAUSE: Final = 0.01

#: Connections held at once (AdmissionPolicy.hold_seconds); further ones are passed on.
_MAX_HELD: Final = 1024

#: Seconds between two events about refused connections.
_REPORT_INTERVAL: Final = 5.0

_log = logging.getLogger(__name__)


class _RefusalSummary:
    """Refused connections that are not logged yet; reason and source of the last."""

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
        self._open = self._paused = self._closed = False
        #: Admitted, with their addresses: one that no worker had room for, and those of a worker
        #: that has ended.
        self._waiting: deque[tuple[socket.socket, str]] = deque()
        self._held: set[socket.socket] = set()
        self._refusals = _RefusalSummary()
        self._reported = False  # within the last interval

    def update(self) -> None:
        """Accept while there are workers."""
        while self._waiting and self._can_dispatch() and self._dispatch(*self._waiting[0]):
            self._waiting.popleft()[0].close()
        target = self._can_dispatch() and not self._waiting
        if target and not self._open:
            self._loop.add_reader(self._listener, self._accept_some)
        elif self._open and not target:
            self._loop.remove_reader(self._listener)
        self._open = target

    def requeue(self, connection: socket.socket, source: str) -> None:
        """Have an admitted connection wait for another worker."""
        self._waiting.append((connection, source))
        if self._closed:
            self._close_waiting()

    def close(self) -> None:
        """Stop accepting: the kernel refuses new connections."""
        self._closed = True
        self.update()
        self._listener.close()
        self._close_waiting()

    def _close_waiting(self) -> None:
        while self._waiting:
            self._waiting.popleft()[0].close()
        while self._held:
            self._held.pop().close()

    def _can_dispatch(self) -> bool:
        return not self._paused and not self._closed and bool(self._workers.candidates())

    def _accept_some(self) -> None:
        for _ in range(_BATCH):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("connections cannot be accepted: %s", error)
                self._pause(_EXHAUSTED_PAUSE)
                self.update()
                return
            if not self._admit(connection, unmapped(address[0])):
                self.update()
                return

    def _admit(self, connection: socket.socket, source: str) -> bool:
        """Pass the connection to a worker, or close it; False if it has to wait."""
        reason = self._policy.rejection_reason(source)
        if reason is not None:
            self._refuse(reason, source)
        elif (hold := self._policy.hold_seconds(source)) and len(self._held) < _MAX_HELD:
            self._hold(connection, source, hold)
            return True
        elif not self._dispatch(connection, source):
            self._waiting.append((connection, source))
            return False
        connection.close()
        return True

    def _hold(self, connection: socket.socket, source: str, seconds: float) -> None:
        """Have it wait for `seconds`, and then for a worker."""

        def release() -> None:
            if connection in self._held:
                self._held.remove(connection)
                self._waiting.append((connection, source))
                self.update()

        self._held.add(connection)
        self._loop.call_later(seconds, release)

    def _dispatch(self, connection: socket.socket, source: str) -> bool:
        """Send the connection to a worker; pause if none has room."""
        for worker in self._connections.least_loaded_first(self._workers.candidates()):
            number = self._connections.add(worker, source)
            if self._workers.dispatch(worker, number, connection):
                return True
            self._connections.remove(number, worker)
        self._pause(_BUSY_PAUSE)
        return False

    def _pause(self, seconds: float) -> None:
        def resume() -> None:
            self._paused = False
            self.update()

        self._paused = True
        self._loop.call_later(seconds, resume)

    def _refuse(self, reason: str, source: str) -> None:
        """Log the first refusal at once, further ones in one event per interval."""
        self._refusals.add(reason, source)
        if not self._reported:
            self._report_refusals()

    def _report_refusals(self) -> None:
        self._reported = bool(self._refusals.count)
        if self._reported:
            busiest, most = self._connections.busiest()
            self._emit(
                ConnectionsRefused(
                    reason=self._refusals.reason,
                    count=self._refusals.count,
                    since=self._refusals.since,
                    client_ip=self._refusals.source,
                    open=self._connections.total,
                    busiest_ip=busiest,
                    busiest_open=most,
                )
            )
            self._refusals = _RefusalSummary()
            self._loop.call_later(_REPORT_INTERVAL, self._report_refusals)
