"""The first process: binds nothing itself, serves nobody, and keeps all others going.

    supervisor ── accepts connections, counts them, passes each to a worker
      ├── observer ── metrics, health, the access log's lines of the supervisor
      ├── worker 0 ── SSH sessions
      └── worker 1 ── ...

It has one thread and never waits for anything but its loop, so it can fork at any moment.

| signal          | what happens                                                             |
|-----------------|--------------------------------------------------------------------------|
| SIGTERM, SIGINT | accept no more, let workers finish, end; the second time: end at once    |
| SIGHUP          | read the configuration in a child; if it is good, let workers take it    |
|                 | over, or replace them; the same where the observer sees files change     |
| SIGUSR1         | the same, but replace the workers whatever has changed                   |
| SIGCHLD         | a child has ended: a worker or the observer is replaced                  |
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Generic

from sftp_gateway import __version__
from sftp_gateway.config.credentials import removal
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.access_log import events, relay
from sftp_gateway.observability.gateway_state import GatewayState
from sftp_gateway.observability.metrics.shared_memory import Memory, SharedValues
from sftp_gateway.process.loop import Loop
from sftp_gateway.process.observer import HISTORY_PATIENCE, LOG_PATIENCE, OBSERVER, ObserverHandle
from sftp_gateway.process.program import AnyPlan, Plan, Program
from sftp_gateway.process.supervisor.acceptor import Acceptor
from sftp_gateway.process.supervisor.admission import AdmissionPolicy
from sftp_gateway.process.supervisor.backoff import RestartBackoff
from sftp_gateway.process.supervisor.control import Control
from sftp_gateway.process.supervisor.reloading import Reloading
from sftp_gateway.process.supervisor.worker_handle import Worker
from sftp_gateway.process.supervisor.workers import DRAIN_MARGIN, Workers
from sftp_gateway.process.worker import REPORT_INTERVAL
from sftp_gateway.system import cpus, systemd
from sftp_gateway.system.children import ended_children, fork

#: Seconds that processes which have nothing left to do get to end.
_END_PATIENCE: Final = 1.0

_log = logging.getLogger(__name__)


class Supervisor(Generic[AnyPlan]):
    """The supervisor, which owns all listening sockets."""

    def __init__(
        self,
        *,
        program: Program[AnyPlan],
        plan: AnyPlan,
        listener: socket.socket,
        http_listener: socket.socket,
        control_listener: socket.socket | None,
    ) -> None:
        self._program = program
        self._plan = plan
        self._shown: AnyPlan | None = None  # what the observer knows of
        self._generation = 0
        self._fallback: tuple[AnyPlan, int] | None = None
        self._listener = listener
        self._http_listener = http_listener
        #: By writer; they outlive the processes.
        self._memories: dict[str, Memory] = {}
        self._loop = Loop()
        self._messenger = ObserverHandle(loop=self._loop, changed=lambda: self._ask("files"))
        self._observer = 0  # its pid
        self._observer_started = 0.0
        self._observer_restarts = RestartBackoff()
        self._reloading: Reloading[AnyPlan] = Reloading(
            loop=self._loop,
            fork=self._fork,
            load=lambda: self._program.load(self._plan, self._workers.hanging()),
            take=self._take,
            again=self._reload,
            report=program.report,
            emit=self._messenger.emit,
        )
        self._busy = True  # until every worker that is wanted serves
        self._started = self._stopping = self._held = self._finished = False
        self._mistakes: Sequence[str] | None = None
        self._policy = AdmissionPolicy(plan.settings, emit=self._messenger.emit)
        self._control = Control(loop=self._loop, listener=control_listener, policy=self._policy)
        self._workers = Workers(loop=self._loop, policy=self._policy, owner=self)
        self._acceptor = Acceptor(
            loop=self._loop,
            listener=listener,
            workers=self._workers,
            policy=self._policy,
            emit=self._messenger.emit,
        )

    def run(self) -> None:
        """Serve until a signal says stop.

        Raises ConfigurationError where the workers say that they cannot serve like this, and
        SystemExit where they end before they serve.
        """
        gc.collect()
        gc.freeze()  # so that no collection in a child copies the pages that are shared
        self._loop.on_signals(
            (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD),
            self._signalled,
        )
        try:
            self._start_observer()
            self._want_workers()
            self._tick()
            self._loop.run()
        finally:
            self._kill_all()
        if self._mistakes:
            raise ConfigurationError(self._mistakes)
        if self._mistakes is not None:
            raise SystemExit(1)

    def _signalled(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            self._ask("signal")
        elif number == signal.SIGUSR1:
            self._ask("restart")
        elif self._stopping:
            raise SystemExit(1)
        else:
            self._stop(number.name)

    def _reap(self) -> None:
        for pid, code in ended_children():
            if not self._workers.ended(pid, code) and pid == self._observer:
                self._observer_ended(code)

    def _tick(self) -> None:
        """What is said and looked at now and then, for as long as the gateway lives."""
        self._policy.tick()
        self._workers.tell_parts()
        self._workers.remind()
        self._messenger.forget_logs()
        self.workers_changed()
        self._loop.later(REPORT_INTERVAL, self._tick)

    # Children

    def _fork(
        self, work: Callable[[], None], *, observes: bool = False, writer: str | None = None
    ) -> int:
        return fork(lambda: self._be_child(work, observes, writer))

    def _be_child(self, work: Callable[[], None], observes: bool, writer: str | None) -> None:
        """Let go of everything that is the supervisor's; then work."""
        if not observes:
            self._http_listener.close()
            self._messenger.abandon_logs()
            for other, memory in self._memories.items():
                if other != writer:
                    memory.close()
        self._loop.abandon()
        self._workers.abandon()
        self._messenger.close()
        self._acceptor.abandon()
        self._control.abandon()
        self._reloading.abandon()
        work()

    def start_worker(self, number: int, control: socket.socket) -> int:
        """Fork a worker."""
        writer = _writer(number)
        memory = self._memory_of(writer)
        sender, receiver = relay.channel()
        self._messenger.add_worker(writer, receiver, memory)

        def work() -> None:
            self._program.work(self._plan, control, SharedValues(memory), sender)

        with sender:
            return self._fork(work, writer=writer)

    def _memory_of(self, writer: str) -> Memory:
        if writer not in self._memories:
            self._memories[writer] = Memory.make()
        return self._memories[writer]

    def _start_observer(self) -> None:
        if self._finished:
            return
        self._observer_started = time.monotonic()
        with self._messenger.connect() as control:

            def observe() -> None:
                self._program.observe(
                    self._plan, control, self._http_listener, self._memories, self._messenger.logs
                )

            try:
                self._memory_of(OBSERVER)
                self._observer = self._fork(observe, observes=True)
            except OSError as error:
                _log.error("the observer cannot be started: %s", error)
                self._observer_ended(1)
        self._show()

    def _observer_ended(self, code: int) -> None:
        self._observer = 0
        if OBSERVER in self._memories:
            self._memories[OBSERVER].forget_gauges()
        if code:
            _log.warning("the observer ended with status %d", code)
        if self._finished:
            self._loop.stop()
            return
        lived = time.monotonic() - self._observer_started
        self._loop.later(self._observer_restarts.delay_after(lived), self._start_observer)

    # Workers

    def _want_workers(self) -> None:
        settings = self._plan.settings
        self._busy = True
        self._policy.configure(settings)
        self._workers.want(
            cpus.workers(settings.workers),
            generation=self._generation,
            drain_seconds=settings.drain_timeout,
        )

    def emit(self, event: events.Event) -> None:
        """Have an event logged."""
        self._messenger.emit(event)

    def workers_changed(self) -> None:
        """See what follows from it."""
        if self._stopping:
            if self._workers.ended_all:
                self._finish()
            elif self._workers.stopped and not self._held:
                # The kernel may hold their processes, in a disk: they are not waited for.
                self._held = True
                self._loop.later(_END_PATIENCE, self._finish)
        elif self._busy and self._workers.settled:
            self._busy = False
            self._settled()
        elif self._fallback is not None and self._workers.serves(self._generation):
            self._commit()
        self._acceptor.update()
        self._show()

    def take_back(self, connection: socket.socket, source: str) -> None:
        """A worker has ended before it took this connection: another gets it."""
        self._acceptor.take_back(connection, source)

    def worker_ended(self, worker: Worker) -> None:
        """Give up what has not worked yet: the start, or a new configuration."""
        self._memories[_writer(worker.number)].forget_gauges()
        if self._stopping:
            return
        if not self._started:
            self._mistakes = worker.errors
            self._loop.stop()
        elif self._fallback is not None and worker.generation == self._generation:
            self._plan, self._generation = self._fallback
            self._fallback = None
            self._reloading.refuse(worker.errors or ["a worker that had it did not start"])
            self._want_workers()

    def _settled(self) -> None:
        """Every worker has the newest configuration, and serves."""
        if self._started:
            self._commit()
            self._reloading.succeed(self._workers.wanted)
        else:
            self._started = True
            address, port = self._listener.getsockname()[:2]
            self._program.greet(self._plan, port)
            self.emit(
                events.ServerStarted(
                    version=__version__,
                    address=address,
                    port=port,
                    record_layer=self._plan.record_layer,
                    landlock=self._plan.landlock,
                )
            )
            systemd.notify(systemd.READY)
        self._reload()

    def _show(self) -> None:
        if self._shown is not self._plan:
            self._shown = self._plan
            self._messenger.serve(self._plan.served)
        self._messenger.show(
            GatewayState(
                time=time.monotonic(),
                pid=os.getpid(),
                workers=self._workers.states(),
                wanted=self._workers.wanted,
                shares=tuple(self._plan.settings.shares),
                stopping=self._stopping,
                restarts=self._workers.restarts,
                refused=dict(self._policy.refused),
                banned=self._policy.banned,
                bans=self._policy.bans(),
                connections=self._policy.connections.total,
                penalties=dict(self._policy.penalties),
                reload=self._reloading.state,
            )
        )

    # A new configuration

    def _ask(self, cause: str) -> None:
        self._reloading.ask(cause)
        self._reload()

    def _reload(self) -> None:
        """Try the configuration, if that is wanted and nothing else is going on."""
        if not (self._busy or self._stopping):
            self._reloading.begin()

    def _take(self, found: AnyPlan) -> None:
        """A configuration is good: let the workers have what is different."""
        running, cause = self._plan, self._reloading.cause
        self._reloading.removal = removal(
            running.served, found.served, self._policy.connections.logins()
        )
        replace, asked = found.needs_new_workers(running) or cause == "restart", cause != "files"
        handed_over = not replace and found.access != running.access
        if replace or handed_over or asked:
            for warning in found.warnings:
                self._program.report(f"warning: {warning}")
        if replace:
            self._reloading.changed = "all"
            self._fallback = running, self._generation
            self._plan = found
            self._generation += 1
            self._want_workers()
            return
        self._plan = found
        if _for_observer(found) != _for_observer(running):
            self._messenger.close()  # it ends, and its successor has the new one
        if handed_over:
            self._reloading.changed = "credentials"
            self._busy = True
            self._workers.hand_over(pickle.dumps(found.access))
            self.workers_changed()
            return
        self._reloading.succeed(self._workers.wanted)
        self._reload()

    def _commit(self) -> None:
        """A worker serves with the new configuration: there is no way back."""
        if self._fallback is not None:
            old, _ = self._fallback
            self._fallback = None
            if _for_observer(old) != _for_observer(self._plan):
                self._messenger.close()  # it ends, and its successor has the new one

    # The end

    def _stop(self, name: str) -> None:
        self._stopping = True
        systemd.notify(systemd.STOPPING)
        self.emit(events.ServerStopping(signal=name))
        self._acceptor.close()
        self._reloading.close()
        self._workers.drain_all()
        longest = self._plan.settings.drain_timeout + DRAIN_MARGIN + _END_PATIENCE
        self._loop.later(longest, self._finish)
        self.workers_changed()

    def _finish(self) -> None:
        """Everything is served and written but our own last line."""
        if self._finished:
            return
        self._finished = True
        self.emit(events.ServerStopped())
        self._show()
        self._messenger.close()
        if self._observer:
            patience = 2 * LOG_PATIENCE + HISTORY_PATIENCE + _END_PATIENCE
            self._loop.later(patience, self._loop.stop)
        else:
            self._loop.stop()

    def _kill_all(self) -> None:
        self._reloading.close()
        self._workers.kill_all()
        if self._observer:
            with suppress(ProcessLookupError):
                os.kill(self._observer, signal.SIGKILL)


def _for_observer(plan: Plan) -> object:
    """What an observer is made with."""
    settings = plan.settings
    return (
        settings.access_log,
        settings.history,
        settings.status,
        settings.auto_reload,
        settings.metrics_names,
        plan.status_token,
        plan.seen.keys(),
    )


def _writer(worker: int) -> str:
    """The name of a worker among the writers of metrics."""
    return f"worker{worker}"
