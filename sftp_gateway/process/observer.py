"""The observer process: the HTTP endpoint, and the access log of all processes.

It keeps the supervisor from waiting for a log or a scraper, and workers from changing what is
logged. It needs neither shares nor keys, and sees of SFTP clients only lines of the log.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from sftp_gateway.config.fingerprint import FileWatcher, Fingerprints, start_watching
from sftp_gateway.config.grants import Grants
from sftp_gateway.observability.access_log import relay
from sftp_gateway.observability.access_log.events import Event, LogDropped
from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.observability.access_log.relay import LogWriter
from sftp_gateway.observability.gateway_state import GatewayState, health
from sftp_gateway.observability.history.writer import HistoryWriter
from sftp_gateway.observability.metrics.exposition import Exposition
from sftp_gateway.observability.metrics.process_metrics import AccessLogCounts
from sftp_gateway.observability.metrics.shared_memory import Memory, SharedValues
from sftp_gateway.observability.web.routes import Application
from sftp_gateway.observability.web.server import ObservabilityServer
from sftp_gateway.process import messages
from sftp_gateway.process.loop import Loop

#: The observer's name among the processes that count metrics.
OBSERVER: Final = "observer"

#: Seconds to write the access log at the end.
LOG_TIMEOUT: Final = 5.0

#: Seconds to write the history.
HISTORY_TIMEOUT: Final = 2.0

#: Events kept while the observer is being replaced.
_MAX_PENDING_EVENTS: Final = 1000

#: The observer's only message: the configuration's files have changed.
_FILES_CHANGED: Final = b"files changed"

#: The message that comes with a memfd of the grants.
_GRANTS: Final = b"grants"

#: No datagram is longer: a socket's send buffer holds less (net.core.wmem_default, 208 KiB).
_MAX_DATAGRAM: Final = 1 << 18


def observe(
    control: socket.socket,
    *,
    listener: socket.socket,
    watched: Fingerprints | None,
    access_log: AccessLog,
    log_writer: LogWriter,
    values: SharedValues,
    memories: dict[str, Memory],
    make_exposition: Callable[[Callable[[], GatewayState | None]], Exposition],
    make_status_app: Callable[[Callable[[], GatewayState | None]], Application | None],
    history: HistoryWriter,
    http_names: Collection[str] = (),
    start_rotation: Callable[[], None] = lambda: None,
) -> None:
    """Run the observer until the supervisor closes the other end of `control`.

    `watched` has the configuration's files as they were before they were read; the supervisor
    learns when they change. `memories` has the metrics of all processes; later workers add theirs.
    `http_names` are the names of the HTTP endpoint; `start_rotation` starts rotating the log.
    """
    state: GatewayState | None = None
    served: dict[str, Any] = {}
    history.start()
    log_writer.start()
    counts = AccessLogCounts(values, access_log, log_writer)
    exposition = make_exposition(lambda: state)
    server = ObservabilityServer(
        listener=listener,
        render=exposition.render,
        probe=lambda: health(state, time.monotonic()),
        status_app=make_status_app(lambda: state),
        names=http_names,
    )
    control.setblocking(True)
    if watched is not None:
        start_watching(FileWatcher(watched), lambda: _report_change(control))
    start_rotation()
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, _MAX_DATAGRAM, 3)
        if not data:
            break
        message = pickle.loads(data)  # noqa: S301 - from the process that forked this one
        if isinstance(message, str):
            log, counts_of, gauges = descriptors
            log_writer.add(socket.socket(fileno=log))
            memory = Memory(counts_of, gauges)
            if memories.setdefault(message, memory) is not memory:
                memory.close()  # of a worker that replaces another
        elif isinstance(message, Event):
            access_log.emit(message)
        elif message == _GRANTS:
            served = json.loads(messages.read_memfd(descriptors.pop()))
        else:
            first = state is None
            state = replace(message, served=served)
            counts.publish()
            if first:  # until then, every health check would fail
                server.start()
    if state is not None and state.stopping:
        server.close()
    access_log.close(LOG_TIMEOUT)
    log_writer.close(LOG_TIMEOUT)
    history.close(HISTORY_TIMEOUT)


def _report_change(control: socket.socket) -> None:
    with suppress(OSError):  # the supervisor is gone
        control.send(_FILES_CHANGED)


class ObserverHandle:
    """The supervisor's side of the observer's socket; it never waits.

    `files_changed` is called when the observer sees that the configuration's files have changed.
    """

    def __init__(
        self, *, loop: Loop | None = None, files_changed: Callable[[], None] = lambda: None
    ) -> None:
        self._loop = loop
        self._files_changed = files_changed
        self._reading = False
        self._control: socket.socket | None = None
        self._pending: deque[Event] = deque()
        #: Bring the lines of workers, to this observer or the next.
        self.logs: list[socket.socket] = []
        self._new_workers: deque[tuple[str, socket.socket, Memory]] = deque()
        self._dropped = 0
        self._dropped_since = 0.0
        self._grants = b""
        self._grants_sent = True

    def connect(self) -> socket.socket:
        """A new observer's end; the observer inherits `logs` and all memories."""
        self.close()
        self._new_workers.clear()
        self._grants_sent = not self._grants
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        if self._loop is not None:
            self._loop.add_reader(self._control, self._receive)
            self._reading = True
        return theirs

    def _receive(self) -> None:
        """Read a message; none means that the observer has ended."""
        if self._control is None:
            return
        message = b""
        with suppress(OSError):
            message = self._control.recv(_MAX_DATAGRAM)
        if message == _FILES_CHANGED:
            self._files_changed()
        else:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reading and self._loop is not None and self._control is not None:
            self._loop.remove_reader(self._control)
        self._reading = False

    def close(self) -> None:
        """Have the observer write what it has, and end."""
        if self._control is not None:
            self._stop_reading()
            self._control.close()
            self._control = None

    def add_worker(self, writer: str, receiver: socket.socket, memory: Memory) -> None:
        """Have the observer write what `receiver` brings, and publish the metrics in `memory`."""
        self.logs.append(receiver)
        self._new_workers.append((writer, receiver, memory))
        self._flush()

    def prune_logs(self) -> None:
        """Close those of ended workers once everything is written."""
        for receiver in [each for each in self.logs if relay.is_drained(each)]:
            self.logs.remove(receiver)
            self._new_workers = deque(each for each in self._new_workers if each[1] is not receiver)
            receiver.close()

    def emit(self, event: Event) -> None:
        """Have an event logged."""
        if len(self._pending) < _MAX_PENDING_EVENTS:
            self._pending.append(event)
        else:
            self._dropped_since = self._dropped_since if self._dropped else event.time
            self._dropped += 1
        self._flush()

    def send_grants(self, grants: Grants) -> None:
        """Tell who may log in with what, and read which shares."""
        self._grants = json.dumps(grants.as_json()).encode()
        self._grants_sent = False
        self._flush()

    def send_state(self, state: GatewayState) -> None:
        """Tell the state of the gateway."""
        if self._flush():
            self._send(state)

    def _flush(self) -> bool:
        """Send what is pending; whether all of it is sent."""
        while self._new_workers:
            writer, receiver, memory = self._new_workers[0]
            if not self._send(writer, receiver.fileno(), memory.counts, memory.gauges):
                return False
            self._new_workers.popleft()
        if not self._grants_sent and not self._send_grants():
            return False
        while self._pending:
            if not self._send(self._pending[0]):
                return False
            self._pending.popleft()
        if self._dropped:
            since, count = self._dropped_since, self._dropped
            if not self._send(LogDropped(count=count, since=since, reason="queue_full")):
                return False
            self._dropped = 0
        return True

    def _send_grants(self) -> bool:
        try:
            descriptor = messages.sealed_memfd(self._grants)
        except OSError:  # no descriptor is free; retried later
            return False
        try:
            self._grants_sent = self._send(_GRANTS, descriptor)
        finally:
            os.close(descriptor)
        return self._grants_sent

    def _send(self, message: Any, *descriptors: int) -> bool:
        # It may be busy, or have ended; its successor gets what is pending.
        with suppress(OSError):
            if self._control is not None:
                socket.send_fds(self._control, [pickle.dumps(message)], descriptors)
                return True
        return False
