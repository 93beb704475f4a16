"""What clients did, and what went wrong: unexpected, or because workers were being replaced."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

#: Seconds after the last worker of before has ended in which a mount must be back.
RECONNECT = 15.0

#: Seconds after which an operation counts as one that hangs.
STALL = 120.0

#: Problems that are kept word for word.
_KEPT = 50


class WrongBytesError(Exception):
    """What came is not what the file has. Nothing explains that."""


class ClientError(Exception):
    """A client failed that should not have."""


@dataclass(slots=True)
class _Restart:
    began: float
    ended: float | None = None

    def explains(self, started: float, now: float) -> bool:
        return self.began <= now and (self.ended is None or started <= self.ended + RECONNECT)


@dataclass(slots=True)
class _Operation:
    kind: str
    started: float
    told: bool = False


@dataclass(slots=True)
class Ledger:
    """The account of all clients' threads; `clock` tells seconds."""

    clock: Callable[[], float] = time.monotonic
    done: Counter[str] = field(default_factory=Counter)
    interrupted: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    errors: int = 0
    verified: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    restarts: list[_Restart] = field(default_factory=list)
    _running: dict[int, _Operation] = field(default_factory=dict)
    _programs: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def operation(self, kind: str) -> Iterator[None]:
        """One thing that a client does; it counts as done if the block comes to its end.

        What it raises is a problem, whatever it is. Only a ClientError, OSError or RuntimeError
        (which RawSftp raises) may be explained by a restart, or by the end of all.
        """
        me, operation = threading.get_ident(), _Operation(kind, self.clock())
        with self._lock:
            self._running[me] = operation
        try:
            yield
        except (ClientError, OSError, RuntimeError) as error:
            if not self.stopping.is_set():
                self._failed(operation, error)
        except Exception as error:  # a thread that ended over it would not be missed
            self.problem(f"{kind}: {error!r}")
        else:
            with self._lock:
                self.done[kind] += 1
        finally:
            with self._lock:
                del self._running[me]

    def _failed(self, operation: _Operation, error: Exception) -> None:
        now = self.clock()
        with self._lock:
            explained = any(each.explains(operation.started, now) for each in self.restarts)
            self.interrupted[operation.kind] += explained
        if not explained:
            self.problem(f"{operation.kind}: {error}")

    @property
    def failures(self) -> int:
        """What failed so far, explained or not."""
        with self._lock:
            return self.errors + sum(self.interrupted.values())

    def problem(self, words: str) -> None:
        """Something that must not happen."""
        with self._lock:
            self.errors += 1
            if len(self.problems) < _KEPT:
                self.problems.append(words)

    def right(self, length: int) -> None:
        """So many bytes more came, and were those of the file."""
        with self._lock:
            self.verified += length

    def restart_began(self) -> None:
        """From now on, what fails may fail because workers are being replaced."""
        with self._lock:
            self.restarts.append(_Restart(self.clock()))

    def restart_ended(self) -> None:
        """The workers of before are gone."""
        with self._lock:
            self.restarts[-1].ended = self.clock()

    @property
    def restarting(self) -> bool:
        """Whether workers of before are still there."""
        return bool(self.restarts) and self.restarts[-1].ended is None

    def overdue(self, seconds: float) -> bool:
        """Whether workers of before are still there after so many seconds."""
        return self.restarting and self.clock() - self.restarts[-1].began > seconds

    def hanging(self) -> list[str]:
        """Kinds of operations that take too long; each is told once, as a problem too."""
        now = self.clock()
        with self._lock:
            late = [
                each
                for each in self._running.values()
                if now - each.started > STALL and not each.told
            ]
            for each in late:
                each.told = True
        for each in late:
            self.problem(f"{each.kind}: hangs for {STALL:.0f} s")
        return [each.kind for each in late]

    @contextlib.contextmanager
    def program(self, program: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        """A program that is ended with the block, or by `end_programs`."""
        with self._lock:
            self._programs.add(program)
        try:
            yield program
        finally:
            with self._lock:
                self._programs.discard(program)
            program.kill()
            program.wait()
            for pipe in (program.stdin, program.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what nobody took any more
                        pipe.close()

    def end_programs(self) -> None:
        """Kill what clients have started and still runs."""
        with self._lock:
            for program in self._programs:
                program.kill()
