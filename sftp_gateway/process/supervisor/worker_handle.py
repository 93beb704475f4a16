"""What the supervisor knows of a worker, and what it does for all of them."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from sftp_gateway.observability.access_log.events import Event
from sftp_gateway.process.loop import Timer


class Stage(Enum):
    """Where a worker's life has got to."""

    STARTING = auto()
    SERVING = auto()
    DRAINING = auto()


@dataclass(slots=True, eq=False, kw_only=True)
class Worker:
    """One worker process. `number` is its own until it has ended, and then a successor's."""

    number: int
    pid: int
    control: socket.socket | None
    #: The worker's own end. As long as it is open here too, what the worker did not live to hear is
    #: not lost with it.
    theirs: socket.socket
    generation: int
    started: float
    seen: float
    stage: Stage = Stage.STARTING
    stopped: bool = False  # it has closed and written everything; only its process is left
    killed: bool = False  # it does nothing any more, even if the kernel keeps it, in a disk
    problems: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    deadline: Timer | None = None
    parts: dict[str, float] = field(default_factory=dict)  # that it was told of
    access: int = 0  # the number of what it decides by
    sent: int = 0  # and of what it was sent


class Owner(Protocol):
    """What the supervisor does for its workers."""

    def start_worker(self, number: int, control: socket.socket) -> int:
        """Fork a worker with this end of a socket; give its pid. Raises OSError."""

    def emit(self, event: Event) -> None:
        """Log an event."""

    def workers_changed(self) -> None:
        """Something about the workers is different."""

    def take_back(self, connection: socket.socket, source: str) -> None:
        """A worker has ended before it took this connection, from the address `source`."""

    def worker_ended(self, worker: Worker) -> None:
        """A worker has ended; what is wanted from now on may be something else."""
