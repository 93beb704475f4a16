"""Starts, replaces and ends the workers.

A worker goes STARTING -> SERVING -> DRAINING, and may end at any time. One that ends before it is
drained is replaced. A new generation replaces all: its workers start one by one, and for each that
serves, one of an older generation is drained.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from contextlib import suppress
from typing import Final

from sftp_gateway.auth.penalties import Offence
from sftp_gateway.observability.access_log.events import WorkerExited, WorkerOutdated, WorkerStarted
from sftp_gateway.observability.gateway_state import HEARTBEAT_TIMEOUT, WorkerState
from sftp_gateway.process import messages
from sftp_gateway.process.loop import Loop, Timer
from sftp_gateway.process.supervisor.admission import AdmissionPolicy
from sftp_gateway.process.supervisor.backoff import RestartBackoff
from sftp_gateway.process.supervisor.worker_handle import Stage, WorkerEvents, WorkerHandle
from sftp_gateway.server.health import NO_ANSWER

#: Seconds in which a worker has to be ready: its first check of a share takes at most 4.
START_TIMEOUT: Final = 30.0

#: Seconds in which a worker has to reload the credentials. A slower one is killed, because it still
#: accepts those that were removed.
RELOAD_TIMEOUT: Final = 10.0

#: Seconds beyond the drain timeout in which a worker has to close its sessions and its log.
DRAIN_MARGIN: Final = 12.0

#: Seconds after which a killed worker is replaced even if the kernel keeps it, waiting for a disk.
_KILL_TIMEOUT: Final = 1.0

#: Characters of a user's name, and of a key's fingerprint.
_MAX_NAME_LENGTH: Final = 32
_MAX_CREDENTIAL_LENGTH: Final = 64
#: The generation of a worker that has to be replaced for a reason of its own.
_OUTDATED: Final = -1

_log = logging.getLogger(__name__)


class Workers:
    """All workers that have not ended."""

    def __init__(self, *, loop: Loop, policy: AdmissionPolicy, events: WorkerEvents) -> None:
        self._loop = loop
        self._policy = policy
        self._events = events
        self._workers: dict[int, WorkerHandle] = {}
        self._restarts = RestartBackoff()
        self._not_before = 0.0
        self._generation = 0
        self._drain_timeout = 0.0
        self.target = 0
        self.restarts = 0
        self._credentials_version = 0
        self._credentials_file: int | None = None

    # The target

    def set_target(self, count: int, *, generation: int, drain_timeout: float) -> None:
        """Have `count` workers of this generation, and drain all others."""
        self.target, self._generation = count, generation
        self._drain_timeout = drain_timeout
        self._not_before = 0.0
        self.reconcile()

    def reconcile(self) -> None:
        """Take the next steps towards the target."""
        current, old = self._split_generations()
        while len(current) < self.target and time.monotonic() >= self._not_before:
            if old and any(worker.stage is Stage.STARTING for worker in current):
                break  # one at a time
            started = self._start()
            if started is None:
                break
            current.append(started)
        serving = sum(worker.stage is Stage.SERVING for worker in current)
        for worker in old[: max(0, serving + len(old) - self.target)]:
            self._drain(worker)

    def send_credentials(self, pickled: bytes) -> None:
        """Have all running workers reload their credentials; later ones start with them."""
        if self._credentials_file is not None:
            os.close(self._credentials_file)
        self._credentials_file = messages.sealed_memfd(pickled)
        self._credentials_version += 1
        version = self._credentials_version
        self.resend_credentials()
        self._loop.call_later(RELOAD_TIMEOUT, lambda: self._kill_unreloaded(version))

    def resend_credentials(self) -> None:
        """Retry for the workers whose sockets were full."""
        for worker in self._workers.values():
            file, version = self._credentials_file, self._credentials_version
            if worker.sent_version < version and worker.control and file is not None:
                message = messages.encode("reload", version)
                with suppress(OSError):  # stuck or gone; RELOAD_TIMEOUT handles it
                    socket.send_fds(worker.control, [message], [file])
                    worker.sent_version = version

    def _kill_unreloaded(self, version: int) -> None:
        for worker in self._workers.values():
            if worker.credentials_version < version and not (worker.stopped or worker.killed):
                _log.error("worker %d did not reload its credentials in time", worker.number)
                self._kill(worker)

    @property
    def converged(self) -> bool:
        """Whether all of the target serve with the newest credentials, and all others drain."""
        current, old = self._split_generations()
        serving = sum(worker.stage is Stage.SERVING for worker in current)
        reloaded = all(
            worker.credentials_version == self._credentials_version
            for worker in self._workers.values()
            if not (worker.stopped or worker.killed)  # the kernel may keep those
        )
        return serving == len(current) == self.target and not old and reloaded

    def _split_generations(self) -> tuple[list[WorkerHandle], list[WorkerHandle]]:
        """Workers of the target generation, and workers that have to be replaced."""
        staying = [
            w for w in self._workers.values() if w.stage is not Stage.DRAINING and not w.killed
        ]
        current = [w for w in staying if w.generation == self._generation]
        return current, [w for w in staying if w.generation != self._generation]

    # Lifecycle

    def _start(self) -> WorkerHandle | None:
        number = next(n for n in range(len(self._workers) + 1) if n not in self._workers)
        ours, theirs = messages.socket_pair()
        now = time.monotonic()
        worker = WorkerHandle(
            number=number,
            pid=0,
            control=ours,
            worker_end=theirs,
            generation=self._generation,
            started=now,
            seen=now,
            credentials_version=self._credentials_version,
            sent_version=self._credentials_version,
        )
        self._workers[number] = worker
        try:
            worker.pid = self._events.start_worker(number, theirs)
        except OSError as error:
            _log.error("a worker cannot be started: %s", error)
            del self._workers[number]
            ours.close()
            theirs.close()
            self._back_off(0.0)
            return None
        self._loop.add_reader(ours, lambda: self._receive(worker))
        worker.deadline = self._loop.call_later(
            START_TIMEOUT, lambda: self._start_timed_out(worker)
        )
        self._events.emit(WorkerStarted(worker=number, pid=worker.pid))
        return worker

    def _back_off(self, lived: float) -> None:
        """Start no worker for a while, after one that lived `lived` seconds."""
        delay = self._restarts.delay_after(lived)
        self._not_before = time.monotonic() + delay
        self._loop.call_later(delay, self.reconcile)

    def _start_timed_out(self, worker: WorkerHandle) -> None:
        worker.errors.append(f"a worker was not ready within {START_TIMEOUT:.0f} seconds")
        self._kill(worker)

    def _drain(self, worker: WorkerHandle) -> None:
        worker.stage = Stage.DRAINING
        self._send(worker, "drain", self._drain_timeout)  # if it is stuck, the deadline ends it
        longest = self._drain_timeout + DRAIN_MARGIN
        self._set_deadline(worker, self._loop.call_later(longest, lambda: self._kill(worker)))
        self._events.workers_changed()

    def _send(self, worker: WorkerHandle, *message: object) -> bool:
        """Whether the message could be sent: the worker may be stuck or gone."""
        with suppress(OSError):
            if worker.control is not None:
                worker.control.send(messages.encode(*message))
                return True
        return False

    def send_session_fractions(self) -> None:
        """Tell each worker its fraction of a user's sessions, if that has changed."""
        fractions = self._policy.session_fractions()
        for worker in self._workers.values():
            now = fractions.get(worker.number, {})
            for user in worker.session_fractions.keys() | now.keys():
                fraction = now.get(user, 0.0)
                sent = worker.session_fractions.get(user)
                if sent != fraction and self._send(worker, "sessions", user, fraction):
                    worker.session_fractions[user] = fraction

    def _set_deadline(self, worker: WorkerHandle, timer: Timer | None) -> None:
        if worker.deadline is not None:
            worker.deadline.cancel()
        worker.deadline = timer

    def _kill(self, worker: WorkerHandle) -> None:
        if not worker.killed:
            worker.killed = True
            self._loop.call_later(_KILL_TIMEOUT, self.reconcile)
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)

    def _receive(self, worker: WorkerHandle) -> None:
        if worker.control is None:
            return
        try:
            for message in messages.receive(worker.control):
                self._handle(worker, message)
        except EOFError:
            self._policy.worker_lost(worker.number)
            self._disconnect(worker)
            if not worker.stopped:
                self._kill(worker)  # nothing can be sent to it any more
        except (ValueError, TypeError):
            _log.exception("worker %d sent an invalid message", worker.number)
            self._kill(worker)

    def _handle(self, worker: WorkerHandle, message: list[object]) -> None:
        worker.seen = time.monotonic()
        match message:
            case ["ready"] if worker.stage is Stage.STARTING:
                worker.stage = Stage.SERVING
                self._set_deadline(worker, None)
                self.reconcile()
            case ["login", int(number), str(user), str(credential)] if (
                len(user) <= _MAX_NAME_LENGTH and len(credential) <= _MAX_CREDENTIAL_LENGTH
            ):
                if not self._policy.logged_in(number, worker.number, user, credential):
                    self._send(worker, "dismiss", number)
                return
            case ["interrupted", int(number)]:
                self._policy.interrupted(number, worker.number)
                return
            case ["ended", int(number), (None | str()) as kind]:
                self._policy.left(number, worker.number, None if kind is None else Offence(kind))
                return
            case ["reloaded", int(version)] if version <= worker.sent_version:
                worker.credentials_version = version
            case ["status", dict(problems)]:
                worker.problems = {str(share): str(text) for share, text in problems.items()}
            case ["outdated", str(share)]:
                self._replace_outdated(worker, share)
            case ["failed", list(errors)]:
                worker.errors = [str(message) for message in errors]
            case ["stopped"]:
                worker.stopped = True
            case ["ready"]:
                pass  # it was drained before it was ready
            case _:
                raise ValueError(message)
        self._events.workers_changed()

    def _replace_outdated(self, worker: WorkerHandle, share: str) -> None:
        """Drain it once another serves, as for a new generation."""
        if worker.generation != _OUTDATED and worker.stage is Stage.SERVING:
            worker.generation = _OUTDATED
            self._events.emit(WorkerOutdated(worker=worker.number, pid=worker.pid, share=share))
            self._back_off(time.monotonic() - worker.started)

    def _disconnect(self, worker: WorkerHandle) -> None:
        if worker.control is not None:
            self._loop.remove_reader(worker.control)
            worker.control.close()
            worker.control = None

    def reap(self, pid: int, code: int) -> bool:
        """Handle the end of process `pid`; whether it was a worker."""
        worker = next((w for w in self._workers.values() if w.pid == pid), None)
        if worker is None:
            return False
        worker.stopped = True  # its pid may be reused
        self._receive(worker)  # what it sent last
        self._requeue_unread(worker)
        self._disconnect(worker)
        worker.worker_end.close()
        self._set_deadline(worker, None)
        del self._workers[worker.number]
        expected = worker.stage is Stage.DRAINING
        self._events.emit(
            WorkerExited(
                worker=worker.number,
                pid=pid,
                status=code if code >= 0 else None,
                signal=signal.Signals(-code).name if code < 0 else None,
                connections=self._policy.worker_ended(worker.number),
                expected=expected,
            )
        )
        self._events.worker_ended(worker)
        if not expected and worker.generation <= self._generation:
            _log.warning("worker %d (pid %d) ended with status %d", worker.number, pid, code)
            self.restarts += 1
            self._back_off(time.monotonic() - worker.started)
        self.reconcile()
        self._events.workers_changed()
        return True

    def _requeue_unread(self, worker: WorkerHandle) -> None:
        """Requeue the connections that the worker was sent and did not read."""
        for message, descriptors in messages.drain_unread(worker.worker_end):
            record = None
            if message[0] == "connection":
                record = self._policy.connections.remove(message[1], worker.number)
            if record is None:
                messages.close_all(descriptors)
                continue
            for descriptor in descriptors:
                connection = socket.socket(fileno=descriptor)
                self._events.requeue(connection, record.source)

    # Serving

    def has_serving(self, generation: int) -> bool:
        """Whether any worker of this generation serves."""
        return any(
            w.generation == generation and w.stage is Stage.SERVING for w in self._workers.values()
        )

    def candidates(self) -> list[int]:
        """Workers that may get a connection: of the newest generation, not stuck if possible."""
        serving = [w for w in self._workers.values() if w.stage is Stage.SERVING and not w.killed]
        newest = max((w.generation for w in serving), default=0)
        now = time.monotonic()
        best = [w for w in serving if w.generation == newest]
        return [w.number for w in best if now - w.seen <= HEARTBEAT_TIMEOUT] or [
            w.number for w in best
        ]

    def dispatch(self, number: int, connection_number: int, connection: socket.socket) -> bool:
        """Send the connection to a worker; False if that cannot take it now."""
        worker = self._workers.get(number)
        if worker is None or worker.control is None:
            return False
        message = messages.encode("connection", connection_number)
        with suppress(OSError):
            socket.send_fds(worker.control, [message], [connection.fileno()])
            return True
        return False

    def states(self) -> tuple[WorkerState, ...]:
        """Their states, for the observer."""
        return tuple(
            WorkerState(
                number=worker.number,
                pid=worker.pid,
                ready=worker.stage is not Stage.STARTING and not worker.stopped,
                seen=worker.seen,
                problems=worker.problems,
            )
            for worker in self._workers.values()
        )

    def unresponsive_shares(self) -> set[str]:
        """The shares whose disks do not answer, as seen by a worker."""
        return {
            share
            for worker in self._workers.values()
            if not worker.stopped
            for share, problem in worker.problems.items()
            if problem == NO_ANSWER
        }

    # The end

    def drain_all(self) -> None:
        """Have all finish and end; none is started any more."""
        self.target = 0
        for worker in tuple(self._workers.values()):
            if worker.stage is not Stage.DRAINING:
                self._drain(worker)

    @property
    def all_stopped(self) -> bool:
        """Whether none has anything left to do; the kernel may still keep some."""
        return all(worker.stopped for worker in self._workers.values())

    @property
    def all_ended(self) -> bool:
        """Whether none is left."""
        return not self._workers

    def kill_all(self) -> None:
        """Kill all."""
        for worker in self._workers.values():
            self._kill(worker)
