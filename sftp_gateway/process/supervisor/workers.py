"""The supervisor's side of its workers: starting, replacing and ending them.

A worker goes STARTING -> SERVING -> DRAINING, and may end at any time. One that ends before it was
told to is replaced. To replace all, a new generation is wanted: new workers are started one by
one, and for each that serves, one of an older generation is drained.
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
from sftp_gateway.process.supervisor.worker_handle import Owner, Stage, Worker
from sftp_gateway.server.health import NO_ANSWER

#: Seconds in which a worker must be ready: one look at each share takes at most 4.
START_PATIENCE: Final = 30.0

#: Seconds in which a worker must have taken over who may log in. One that has not is ended: it
#: would go on to let in who was taken away.
TAKE_PATIENCE: Final = 10.0

#: Seconds beyond the drain timeout in which a worker must have closed its sessions and its log.
DRAIN_MARGIN: Final = 12.0

#: Seconds in which a worker that was killed has ended, unless the kernel keeps it in a disk: then
#: another takes its place.
_END_PATIENCE: Final = 1.0

#: Characters of a user's name, and of a key's fingerprint.
_LONGEST_NAME: Final = 32
_LONGEST_CREDENTIAL: Final = 64
#: The generation of a worker that is to be replaced for a reason of its own.
_OUTDATED: Final = -1

_log = logging.getLogger(__name__)


class Workers:
    """All workers that have not ended."""

    def __init__(self, *, loop: Loop, policy: AdmissionPolicy, owner: Owner) -> None:
        self._loop = loop
        self._policy = policy
        self._owner = owner
        self._workers: dict[int, Worker] = {}
        self._restarts = RestartBackoff()
        self._not_before = 0.0
        self._generation = 0
        self._drain_seconds = 0.0
        self.wanted = 0
        self.restarts = 0
        self._access = 0
        self._access_file: int | None = None

    # What is wanted

    def want(self, count: int, *, generation: int, drain_seconds: float) -> None:
        """There should be so many workers, all of this generation; others are drained."""
        self.wanted, self._generation = count, generation
        self._drain_seconds = drain_seconds
        self._not_before = 0.0
        self.reconcile()

    def reconcile(self) -> None:
        """Take the next steps towards what is wanted."""
        current, old = self._by_generation()
        while len(current) < self.wanted and time.monotonic() >= self._not_before:
            if old and any(worker.stage is Stage.STARTING for worker in current):
                break  # one by one
            started = self._start()
            if started is None:
                break
            current.append(started)
        serving = sum(worker.stage is Stage.SERVING for worker in current)
        for worker in old[: max(0, serving + len(old) - self.wanted)]:
            self._drain(worker)

    def hand_over(self, access: bytes) -> None:
        """Let all workers that are there decide by this; those that come have it already."""
        if self._access_file is not None:
            os.close(self._access_file)
        self._access_file = messages.sealed(access)
        self._access += 1
        number = self._access
        self.remind()
        self._loop.later(TAKE_PATIENCE, lambda: self._end_those_without(number))

    def remind(self) -> None:
        """Send it to those who could not be sent it so far."""
        for worker in self._workers.values():
            if worker.sent < self._access and worker.control and self._access_file is not None:
                message = messages.encode("access", self._access)
                with suppress(OSError):  # it is stuck, or gone: the deadline counts
                    socket.send_fds(worker.control, [message], [self._access_file])
                    worker.sent = self._access

    def _end_those_without(self, number: int) -> None:
        for worker in self._workers.values():
            if worker.access < number and not (worker.stopped or worker.killed):
                _log.error("worker %d does not take over who may log in", worker.number)
                self._kill(worker)

    @property
    def settled(self) -> bool:
        """Whether all that are wanted serve, and all others are on their way out."""
        current, old = self._by_generation()
        serving = sum(worker.stage is Stage.SERVING for worker in current)
        taken = all(
            worker.access == self._access
            for worker in self._workers.values()
            if not (worker.stopped or worker.killed)  # the kernel may keep such, in a disk
        )
        return serving == len(current) == self.wanted and not old and taken

    def _by_generation(self) -> tuple[list[Worker], list[Worker]]:
        """Those that are wanted, and those that are to be replaced."""
        staying = [
            w for w in self._workers.values() if w.stage is not Stage.DRAINING and not w.killed
        ]
        current = [w for w in staying if w.generation == self._generation]
        return current, [w for w in staying if w.generation != self._generation]

    # Their lives

    def _start(self) -> Worker | None:
        number = next(n for n in range(len(self._workers) + 1) if n not in self._workers)
        ours, theirs = messages.pair()
        now = time.monotonic()
        worker = Worker(
            number=number,
            pid=0,
            control=ours,
            theirs=theirs,
            generation=self._generation,
            started=now,
            seen=now,
            access=self._access,
            sent=self._access,
        )
        self._workers[number] = worker  # before the fork: the child closes its copy of `ours`
        try:
            worker.pid = self._owner.start_worker(number, theirs)
        except OSError as error:
            _log.error("a worker cannot be started: %s", error)
            del self._workers[number]
            ours.close()
            theirs.close()
            self._wait(0.0)
            return None
        self._loop.watch(ours, lambda: self._receive(worker))
        worker.deadline = self._loop.later(START_PATIENCE, lambda: self._never_ready(worker))
        self._owner.emit(WorkerStarted(worker=number, pid=worker.pid))
        return worker

    def _wait(self, lived: float) -> None:
        """Start no worker for a while, after one that lived so many seconds."""
        delay = self._restarts.delay_after(lived)
        self._not_before = time.monotonic() + delay
        self._loop.later(delay, self.reconcile)

    def _never_ready(self, worker: Worker) -> None:
        worker.errors.append(f"a worker was not ready within {START_PATIENCE:.0f} seconds")
        self._kill(worker)

    def _drain(self, worker: Worker) -> None:
        worker.stage = Stage.DRAINING
        self._tell(worker, "drain", self._drain_seconds)  # if it is stuck, the deadline counts
        longest = self._drain_seconds + DRAIN_MARGIN
        self._set_deadline(worker, self._loop.later(longest, lambda: self._kill(worker)))
        self._owner.workers_changed()

    def _tell(self, worker: Worker, *message: object) -> bool:
        """Whether it could be told: it may be stuck, or gone."""
        with suppress(OSError):
            if worker.control is not None:
                worker.control.send(messages.encode(*message))
                return True
        return False

    def tell_parts(self) -> None:
        """Tell workers which part of a user's sessions they have, where that is another now."""
        parts = self._policy.parts()
        for worker in self._workers.values():
            now = parts.get(worker.number, {})
            for user in worker.parts.keys() | now.keys():
                part = now.get(user, 0.0)
                if worker.parts.get(user) != part and self._tell(worker, "sessions", user, part):
                    worker.parts[user] = part

    def _set_deadline(self, worker: Worker, timer: Timer | None) -> None:
        if worker.deadline is not None:
            worker.deadline.cancel()
        worker.deadline = timer

    def _kill(self, worker: Worker) -> None:
        if not worker.killed:
            worker.killed = True
            self._loop.later(_END_PATIENCE, self.reconcile)
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)

    def _receive(self, worker: Worker) -> None:
        if worker.control is None:
            return
        try:
            for message in messages.received(worker.control):
                self._heed(worker, message)
        except EOFError:
            self._policy.worker_lost(worker.number)
            self._hang_up(worker)
            if not worker.stopped:
                self._kill(worker)  # it cannot be told anything any more
        except (ValueError, TypeError):
            _log.exception("worker %d does not speak as workers do", worker.number)
            self._kill(worker)

    def _heed(self, worker: Worker, message: list[object]) -> None:
        worker.seen = time.monotonic()
        match message:
            case ["ready"] if worker.stage is Stage.STARTING:
                worker.stage = Stage.SERVING
                self._set_deadline(worker, None)
                self.reconcile()
            case ["login", int(number), str(user), str(credential)] if (
                len(user) <= _LONGEST_NAME and len(credential) <= _LONGEST_CREDENTIAL
            ):
                if not self._policy.logged_in(number, worker.number, user, credential):
                    self._tell(worker, "dismiss", number)
                return
            case ["interrupted", int(number)]:
                self._policy.interrupted(number, worker.number)
                return
            case ["ended", int(number), (None | str()) as kind]:
                self._policy.left(number, worker.number, None if kind is None else Offence(kind))
                return
            case ["taken", int(number)] if number <= worker.sent:
                worker.access = number
            case ["status", dict(problems)]:
                worker.problems = {str(share): str(text) for share, text in problems.items()}
            case ["outdated", str(share)]:
                self._replace(worker, share)
            case ["failed", list(errors)]:
                worker.errors = [str(message) for message in errors]
            case ["stopped"]:
                worker.stopped = True
            case ["ready"]:
                pass  # told to drain before it was
            case _:
                raise ValueError(message)
        self._owner.workers_changed()

    def _replace(self, worker: Worker, share: str) -> None:
        """Drain it once another serves, as if a new generation were wanted."""
        if worker.generation != _OUTDATED and worker.stage is Stage.SERVING:
            worker.generation = _OUTDATED
            self._owner.emit(WorkerOutdated(worker=worker.number, pid=worker.pid, share=share))
            self._wait(time.monotonic() - worker.started)

    def _hang_up(self, worker: Worker) -> None:
        if worker.control is not None:
            self._loop.unwatch(worker.control)
            worker.control.close()
            worker.control = None

    def ended(self, pid: int, code: int) -> bool:
        """The process `pid` has ended; whether it was a worker."""
        worker = next((w for w in self._workers.values() if w.pid == pid), None)
        if worker is None:
            return False
        worker.stopped = True  # and its pid may be another's
        self._receive(worker)  # its last words
        self._take_back(worker)
        self._hang_up(worker)
        worker.theirs.close()
        self._set_deadline(worker, None)
        del self._workers[worker.number]
        expected = worker.stage is Stage.DRAINING
        self._owner.emit(
            WorkerExited(
                worker=worker.number,
                pid=pid,
                status=code if code >= 0 else None,
                signal=signal.Signals(-code).name if code < 0 else None,
                connections=self._policy.worker_ended(worker.number),
                expected=expected,
            )
        )
        self._owner.worker_ended(worker)
        if not expected and worker.generation <= self._generation:
            _log.warning("worker %d (pid %d) ended with status %d", worker.number, pid, code)
            self.restarts += 1
            self._wait(time.monotonic() - worker.started)
        self.reconcile()
        self._owner.workers_changed()
        return True

    def _take_back(self, worker: Worker) -> None:
        """Take back the connections that the worker was passed and did not live to take."""
        for message, descriptors in messages.unheard(worker.theirs):
            record = None
            if message[0] == "connection":
                record = self._policy.connections.remove(message[1], worker.number)
            if record is None:
                messages.close_all(descriptors)
                continue
            for descriptor in descriptors:
                connection = socket.socket(fileno=descriptor)
                self._owner.take_back(connection, record.source)

    # What they are good for

    def serves(self, generation: int) -> bool:
        """Whether any of this generation has got so far."""
        return any(
            w.generation == generation and w.stage is Stage.SERVING for w in self._workers.values()
        )

    def candidates(self) -> list[int]:
        """Who may get a connection: the newest generation, and none that seems stuck."""
        serving = [w for w in self._workers.values() if w.stage is Stage.SERVING and not w.killed]
        newest = max((w.generation for w in serving), default=0)
        now = time.monotonic()
        best = [w for w in serving if w.generation == newest]
        return [w.number for w in best if now - w.seen <= HEARTBEAT_TIMEOUT] or [
            w.number for w in best
        ]

    def pass_on(self, number: int, connection_number: int, connection: socket.socket) -> bool:
        """Give the connection to a worker; False where that cannot take it now."""
        worker = self._workers.get(number)
        if worker is None or worker.control is None:
            return False
        message = messages.encode("connection", connection_number)
        with suppress(OSError):
            socket.send_fds(worker.control, [message], [connection.fileno()])
            return True
        return False

    def states(self) -> tuple[WorkerState, ...]:
        """What the observer is told of them."""
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

    def hanging(self) -> set[str]:
        """The shares whose disks do not answer, as a worker has found."""
        return {
            share
            for worker in self._workers.values()
            if not worker.stopped
            for share, problem in worker.problems.items()
            if problem == NO_ANSWER
        }

    # The end

    def drain_all(self) -> None:
        """Tell all to finish and end; none is started any more."""
        self.wanted = 0
        for worker in tuple(self._workers.values()):
            if worker.stage is not Stage.DRAINING:
                self._drain(worker)

    @property
    def stopped(self) -> bool:
        """Whether none has anything left to do. Some may be held by the kernel, in a disk."""
        return all(worker.stopped for worker in self._workers.values())

    @property
    def ended_all(self) -> bool:
        """Whether none is left."""
        return not self._workers

    def kill_all(self) -> None:
        """End them without a word."""
        for worker in self._workers.values():
            self._kill(worker)

    def abandon(self) -> None:
        """In a child: close what was the parent's."""
        if self._access_file is not None:
            os.close(self._access_file)
        for worker in self._workers.values():
            if worker.control is not None:
                worker.control.close()
            if worker.pid:  # else it is this one's own
                worker.theirs.close()
