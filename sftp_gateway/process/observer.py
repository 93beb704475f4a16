"""The observer process: the HTTP endpoint, and the access log of all processes.

So the supervisor never waits for a log or a scraper, and no worker can change what is written. What
clients of the shares send does not come here but as lines of the log, and nothing of the shares or
the keys is needed.
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

from sftp_gateway.config import fingerprint as watch
from sftp_gateway.config.credentials import Served
from sftp_gateway.config.fingerprint import Looks, Watch
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

#: The observer's name among the writers of metrics.
OBSERVER: Final = "observer"

#: Seconds that the access log has to be written at the end.
LOG_PATIENCE: Final = 5.0

#: Seconds that the history has.
HISTORY_PATIENCE: Final = 2.0

#: Events that wait for an observer which is just being replaced.
_MOST_WAITING: Final = 1000

#: What the observer says where files have changed: it has one thing to say.
_CHANGED: Final = b"changed"

#: What comes with a file that says who and what is served.
_SERVED: Final = b"served"

#: No datagram is longer: a socket's send buffer holds less (net.core.wmem_default, 208 KiB).
_LONGEST: Final = 1 << 18


def observe(
    control: socket.socket,
    *,
    listener: socket.socket,
    watched: Looks | None,
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
    """Be the observer at this end of the supervisor's socket, until the other is closed.

    `watched` is how the configuration's files looked before they were read; the supervisor is
    told when they have changed. `memories` are those of all writers of metrics; workers that come
    later add theirs. `http_names` are those of the HTTP endpoint; `start_rotation`
    begins to look after the access log's file.
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
    server.start()
    control.setblocking(True)
    if watched is not None:
        watch.start(Watch(watched), lambda: _tell_changed(control))
    start_rotation()
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, _LONGEST, 3)
        if not data:
            break
        message = pickle.loads(data)  # noqa: S301 - from the process that forked this one
        if isinstance(message, str):
            log, counts_of, gauges = descriptors
            log_writer.add(socket.socket(fileno=log))
            memory = Memory(counts_of, gauges)
            if memories.setdefault(message, memory) is not memory:
                memory.close()  # it is a successor's
        elif isinstance(message, Event):
            access_log.emit(message)
        elif message == _SERVED:
            served = json.loads(messages.read_sealed(descriptors.pop()))
        else:
            state = replace(message, served=served)
            counts.publish()
    if state is not None and state.stopping:
        server.close()
    access_log.close(LOG_PATIENCE)
    log_writer.close(LOG_PATIENCE)
    history.close(HISTORY_PATIENCE)


def _tell_changed(control: socket.socket) -> None:
    with suppress(OSError):  # the supervisor is gone
        control.send(_CHANGED)


class ObserverHandle:
    """The supervisor's side: tells the observer, and never waits for it.

    `changed` is called where the observer says that files of the configuration have changed.
    """

    def __init__(
        self, *, loop: Loop | None = None, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._loop = loop
        self._changed = changed
        self._watched = False
        self._control: socket.socket | None = None
        self._waiting: deque[Event] = deque()
        #: Where lines of workers come from, for this observer or the next; some it has not yet.
        self.logs: list[socket.socket] = []
        self._new: deque[tuple[str, socket.socket, Memory]] = deque()
        self._dropped = 0
        self._dropped_since = 0.0
        self._served = b""
        self._told_served = True

    def connect(self) -> socket.socket:
        """A new observer's end. The observer has to be given `logs` and all memories too."""
        self.close()
        self._new.clear()
        self._told_served = not self._served
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        if self._loop is not None:
            self._loop.watch(self._control, self._listen)
            self._watched = True
        return theirs

    def _listen(self) -> None:
        """What an observer says; nothing where it has ended, and the next is connected soon."""
        if self._control is None:
            return
        said = b""
        with suppress(OSError):
            said = self._control.recv(_LONGEST)
        if said == _CHANGED:
            self._changed()
        else:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._watched and self._loop is not None and self._control is not None:
            self._loop.unwatch(self._control)
        self._watched = False

    def close(self) -> None:
        """Let the observer write what it has, and end."""
        if self._control is not None:
            self._unwatch()
            self._control.close()
            self._control = None

    def add_worker(self, writer: str, receiver: socket.socket, memory: Memory) -> None:
        """Have written what the worker sends to `receiver`, and its metrics shown."""
        self.logs.append(receiver)
        self._new.append((writer, receiver, memory))
        self._send_waiting()

    def forget_logs(self) -> None:
        """Close those of workers that have ended, once all is written."""
        for receiver in [each for each in self.logs if relay.is_over(each)]:
            self.logs.remove(receiver)
            self._new = deque(each for each in self._new if each[1] is not receiver)
            receiver.close()

    def abandon_logs(self) -> None:
        """In a child that does not write them: close what was the parent's."""
        for receiver in self.logs:
            receiver.close()

    def emit(self, event: Event) -> None:
        """Have an event logged."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(event)
        else:
            self._dropped_since = self._dropped_since if self._dropped else event.time
            self._dropped += 1
        self._send_waiting()

    def serve(self, served: Served) -> None:
        """Tell who and what is served from now on."""
        self._served = json.dumps(served.as_json()).encode()
        self._told_served = False
        self._send_waiting()

    def show(self, state: GatewayState) -> None:
        """Tell how things stand."""
        if self._send_waiting():
            self._send(state)

    def _send_waiting(self) -> bool:
        """Whether everything that waited is sent."""
        while self._new:
            writer, receiver, memory = self._new[0]
            if not self._send(writer, receiver.fileno(), memory.counts, memory.gauges):
                return False
            self._new.popleft()
        if not self._told_served and not self._send_served():
            return False
        while self._waiting:
            if not self._send(self._waiting[0]):
                return False
            self._waiting.popleft()
        if self._dropped:
            since, count = self._dropped_since, self._dropped
            if not self._send(LogDropped(count=count, since=since, reason="queue_full")):
                return False
            self._dropped = 0
        return True

    def _send_served(self) -> bool:
        try:
            descriptor = messages.sealed(self._served)
        except OSError:  # no descriptor is free: later
            return False
        try:
            self._told_served = self._send(_SERVED, descriptor)
        finally:
            os.close(descriptor)
        return self._told_served

    def _send(self, message: Any, *descriptors: int) -> bool:
        # An error: it is busy, or has ended. The next one gets what waits.
        with suppress(OSError):
            if self._control is not None:
                socket.send_fds(self._control, [pickle.dumps(message)], descriptors)
                return True
        return False
