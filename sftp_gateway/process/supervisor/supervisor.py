"""The first process: accepts connections, starts all other processes and replaces them.

    supervisor ── accepts connections, counts them, passes each to a worker
      ├── observer ── metrics, health, status page; writes the access log
      ├── worker 0 ── SSH sessions
      └── worker 1 ── ...

It has one thread and waits for nothing but its event loop, so it can fork at any time.

| signal          | effect                                                                    |
|-----------------|---------------------------------------------------------------------------|
| SIGTERM, SIGINT | stop accepting, let workers finish, exit; the second time: exit at once   |
| SIGHUP          | reload the configuration (`reloading`), as the observer asks for when     |
|                 | files have changed                                                        |
| SIGUSR1         | the same, but replace the workers in any case                             |
| SIGCHLD         | a child has ended: replace the worker or the observer                     |
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from sftp_gateway import __version__
from sftp_gateway.config.snapshot import ConfigSnapshot
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log import events, relay
from sftp_gateway.observability.gateway_state import GatewayState
from sftp_gateway.observability.history.channel import HistoryChannel
from sftp_gateway.observability.metrics.shared_memory import Memory
from sftp_gateway.process.entrypoints import ObserverResources, ProcessEntrypoints, WorkerResources
from sftp_gateway.process.loop import Loop
from sftp_gateway.process.observer import HISTORY_TIMEOUT, LOG_TIMEOUT, OBSERVER, ObserverHandle
from sftp_gateway.process.supervisor.acceptor import Acceptor
from sftp_gateway.process.supervisor.admission import AdmissionPolicy
from sftp_gateway.process.supervisor.backoff import RestartBackoff
from sftp_gateway.process.supervisor.control import Control
from sftp_gateway.process.supervisor.reloading import ConfigReloader
from sftp_gateway.process.supervisor.worker_handle import WorkerHandle
from sftp_gateway.process.supervisor.workers import DRAIN_MARGIN, Workers
from sftp_gateway.process.worker import REPORT_INTERVAL
from sftp_gateway.system import systemd
from sftp_gateway.system.children import fork, reap_children

#: Seconds in which a process that has nothing left to do has to end.
_EXIT_TIMEOUT: Final = 1.0

_log = logging.getLogger(__name__)


class Supervisor:
    """The supervisor, which owns all listening sockets."""

    def __init__(
        self,
        *,
        entrypoints: ProcessEntrypoints,
        snapshot: ConfigSnapshot,
        listener: socket.socket,
        http_listener: socket.socket,
        control_listener: socket.socket | None,
    ) -> None:
        self._entrypoints = entrypoints
        self._listener = listener
        self._http_listener = http_listener
        #: By process; they outlive the processes.
        self._memories: dict[str, Memory] = {}
        self._history = HistoryChannel()
        self._started = self._stopping = self._exit_scheduled = self._finished = False
        self._start_errors: Sequence[str] | None = None
        self._published: ConfigSnapshot | None = None  # that the observer knows of
        self._observer_pid = 0
        self._observer_started = 0.0
        self._observer_backoff = RestartBackoff()
        self._loop = Loop()
        self._observer = ObserverHandle(
            loop=self._loop, files_changed=lambda: self._config.request("files")
        )
        self._policy = AdmissionPolicy(snapshot.settings, emit=self._observer.emit)
        self._control = Control(loop=self._loop, listener=control_listener, policy=self._policy)
        self._workers = Workers(loop=self._loop, policy=self._policy, events=self)
        self._config = ConfigReloader(
            snapshot,
            loop=self._loop,
            entrypoints=entrypoints,
            workers=self._workers,
            policy=self._policy,
            observer=self._observer,
        )
        self._acceptor = Acceptor(
            loop=self._loop,
            listener=listener,
            workers=self._workers,
            policy=self._policy,
            emit=self._observer.emit,
        )

    def run(self) -> None:
        """Serve until a signal says stop.

        Raises ConfigurationError if the workers cannot serve with this configuration, and
        SystemExit if they end before they serve.
        """
        gc.collect()
        gc.freeze()  # a collection in a child would copy the pages it shares with this process
        self._loop.on_signals(
            (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD),
            self._handle_signal,
        )
        try:
            self._start_observer()
            self._config.start_workers()
            self._tick()
            self._loop.run()
        finally:
            self._kill_all()
        if self._start_errors:
            raise ConfigurationError(self._start_errors)
        if self._start_errors is not None:
            raise SystemExit(1)

    def _handle_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif self._stopping and number in (signal.SIGTERM, signal.SIGINT):
            raise SystemExit(1)
        elif number == signal.SIGHUP:
            self._config.request("signal")
        elif number == signal.SIGUSR1:
            self._config.request("restart")
        else:
            self._stop(number.name)

    def _reap(self) -> None:
        for pid, code in reap_children():
            if not self._workers.reap(pid, code) and pid == self._observer_pid:
                self._observer_ended(code)

    def _tick(self) -> None:
        """What is due at each interval."""
        self._policy.tick()
        self._workers.send_session_fractions()
        self._workers.resend_credentials()
        self._observer.prune_logs()
        self.workers_changed()
        self._loop.call_later(REPORT_INTERVAL, self._tick)

    # Children

    def start_worker(self, number: int, control: socket.socket) -> int:
        """Fork a worker; return its pid. Raises OSError."""
        name = _process_name(number)
        memory = self._memory_of(name)
        sender, receiver = relay.socket_pair()
        self._observer.add_worker(name, receiver, memory)
        with sender:
            resources = WorkerResources(
                control=control, memory=memory, log=sender, history=self._history
            )
            work = partial(self._entrypoints.worker, self._config.current, resources)
            return fork(work, keep=resources.descriptors)

    def _memory_of(self, name: str) -> Memory:
        if name not in self._memories:
            self._memories[name] = Memory.make()
        return self._memories[name]

    def _start_observer(self) -> None:
        if self._finished:
            return
        self._observer_started = time.monotonic()
        with self._observer.connect() as control:
            try:
                self._memory_of(OBSERVER)
                resources = ObserverResources(
                    control=control,
                    listener=self._http_listener,
                    memories=self._memories,
                    logs=self._observer.logs,
                    history=self._history,
                )
                observe = partial(self._entrypoints.observer, self._config.current, resources)
                self._observer_pid = fork(observe, keep=resources.descriptors)
            except OSError as error:
                _log.error("the observer cannot be started: %s", error)
                self._observer_ended(1)
        self._publish_state()

    def _observer_ended(self, code: int) -> None:
        self._observer_pid = 0
        if OBSERVER in self._memories:
            self._memories[OBSERVER].clear_gauges()
        if code:
            _log.warning("the observer ended with status %d", code)
        if self._finished:
            self._loop.stop()
            return
        lived = time.monotonic() - self._observer_started
        self._loop.call_later(self._observer_backoff.delay_after(lived), self._start_observer)

    # Workers

    def emit(self, event: events.Event) -> None:
        """Have an event logged."""
        self._observer.emit(event)

    def workers_changed(self) -> None:
        """Continue what waits for the workers."""
        if self._stopping:
            if self._workers.all_ended:
                self._finish()
            elif self._workers.all_stopped and not self._exit_scheduled:
                # The kernel may keep their processes, which wait for a disk.
                self._exit_scheduled = True
                self._loop.call_later(_EXIT_TIMEOUT, self._finish)
        else:
            if not self._started and self._workers.converged:
                self._announce()
            self._config.workers_changed()
        self._acceptor.update()
        self._publish_state()

    def requeue(self, connection: socket.socket, source: str) -> None:
        """A worker has ended before it took this connection: another gets it."""
        self._acceptor.requeue(connection, source)

    def worker_ended(self, worker: WorkerHandle) -> None:
        """Give up the start, or a new configuration, if this was to show that it works."""
        self._memories[_process_name(worker.number)].clear_gauges()
        if self._stopping:
            return
        if self._started:
            self._config.worker_ended(worker)
        else:
            self._start_errors = worker.errors
            self._loop.stop()

    def _announce(self) -> None:
        self._started = True
        snapshot = self._config.current
        address, port = self._listener.getsockname()[:2]
        self._entrypoints.announce(snapshot, port)
        self.emit(
            events.ServerStarted(
                version=__version__,
                address=address,
                port=port,
                record_layer=snapshot.record_layer,
                landlock=snapshot.landlock,
            )
        )
        systemd.notify(systemd.READY)

    def _publish_state(self) -> None:
        """Tell the observer."""
        snapshot = self._config.current
        if self._published is not snapshot:
            self._published = snapshot
            self._observer.send_grants(snapshot.grants)
        policy, workers = self._policy, self._workers
        self._observer.send_state(
            GatewayState(
                time=time.monotonic(),
                pid=os.getpid(),
                workers=workers.states(),
                wanted=workers.target,
                shares=tuple(snapshot.settings.shares),
                stopping=self._stopping,
                restarts=workers.restarts,
                refused=dict(policy.refused),
                banned=policy.banned,
                bans=policy.bans(),
                connections=policy.connections.total,
                penalties=dict(policy.penalties),
                reload=self._config.state,
            )
        )

    # The end

    def _stop(self, signal_name: str) -> None:
        self._stopping = True
        systemd.notify(systemd.STOPPING)
        self.emit(events.ServerStopping(signal=signal_name))
        self._acceptor.close()
        self._config.close()
        self._workers.drain_all()
        drain_timeout = self._config.current.settings.drain_timeout
        self._loop.call_later(drain_timeout + DRAIN_MARGIN + _EXIT_TIMEOUT, self._finish)
        self.workers_changed()

    def _finish(self) -> None:
        """Everything is served and logged but the last event."""
        if self._finished:
            return
        self._finished = True
        self.emit(events.ServerStopped())
        self._publish_state()
        self._observer.close()
        if self._observer_pid:
            timeout = 2 * LOG_TIMEOUT + HISTORY_TIMEOUT + _EXIT_TIMEOUT
            self._loop.call_later(timeout, self._loop.stop)
        else:
            self._loop.stop()

    def _kill_all(self) -> None:
        self._config.close()
        self._workers.kill_all()
        if self._observer_pid:
            with suppress(ProcessLookupError):
                os.kill(self._observer_pid, signal.SIGKILL)


def _process_name(worker: int) -> str:
    """Names a worker's metrics."""
    return f"worker{worker}"
