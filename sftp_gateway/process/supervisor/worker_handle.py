"""What the supervisor knows of a worker, and what it does for all workers."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from sftp_gateway.observability.access_log.events import Event
from sftp_gateway.process.loop import Timer


class Stage(Enum):
    """The state of a worker."""

    STARTING = auto()
    SERVING = auto()
    DRAINING = auto()


@dataclass(slots=True, eq=False, kw_only=True)
class WorkerHandle:
    """One worker process. Its `number` is reused once it has ended."""

    number: int
    pid: int
    control: socket.socket | None
    #: The worker's end of `control`. Open here too, it keeps what a worker did not live to read.
    worker_end: socket.socket
    generation: int
    started: float
    seen: float
    stage: Stage = Stage.STARTING
    stopped: bool = False  # all is closed and written; only the process is left
    killed: bool = False  # it does nothing any more, even if the kernel keeps it
    problems: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    deadline: Timer | None = None
    session_fractions: dict[str, float] = field(
        default_factory=dict
    )  # of users' sessions, as last sent
    credentials_version: int = 0  # that it uses
    sent_version: int = 0  # that it was sent


class WorkerEvents(Protocol):
    """What the workers ask of the supervisor."""

    def start_worker(self, number: int, control: socket.socket) -> int:
        """Fork a worker with this end of a socket; return its pid. Raises OSError."""

    def emit(self, event: Event) -> None:
        """Log an event."""

    def workers_changed(self) -> None:
        """A worker has changed its state."""

    def requeue(self, connection: socket.socket, source: str) -> None:
        """A worker has ended before it took this connection from the address `source`."""

    def worker_ended(self, worker: WorkerHandle) -> None:
        """A worker has ended; this may change the target."""
