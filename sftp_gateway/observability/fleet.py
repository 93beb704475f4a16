"""All processes of the gateway as the supervisor sees them, and what that says of their health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sftp_gateway.observability.http import Health

#: Seconds without a word after which a process counts as stuck. They speak twice a second.
PATIENCE: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One worker; `problems` are those of the shares that it cannot read."""

    number: int
    pid: int
    ready: bool  # it serves, or finishes what it serves
    seen: float  # when it last spoke, in seconds of the monotonic clock
    problems: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ban:
    """A source that is refused, or throttled, for `seconds` more; as in `source_banned`."""

    source: str
    reason: str
    times: int
    effect: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What the supervisor knows at `time`, in seconds of the monotonic clock."""

    time: float
    pid: int  # the supervisor's
    workers: tuple[WorkerState, ...]
    wanted: int
    shares: tuple[str, ...]
    stopping: bool
    restarts: int
    refused: Mapping[str, int]
    banned: int  # sources
    bans: tuple[Ban, ...]  # the first of them
    connections: int
    penalties: Mapping[str, int]


def health(fleet: Fleet | None, now: float) -> Health:
    """The health of all processes together; None before the supervisor has spoken.

    Raises TimeoutError where a process that should speak has not done so for PATIENCE seconds.
    """
    if fleet is None or now - fleet.time > PATIENCE:
        raise TimeoutError
    ready = [worker for worker in fleet.workers if worker.ready]
    if any(now - worker.seen > PATIENCE for worker in ready):
        raise TimeoutError
    problems = {name: text for worker in ready for name, text in worker.problems.items()}
    return Health(
        alive=bool(ready),
        ready=not fleet.stopping and bool(ready) and not problems,
        details={name: problems.get(name, "ok") for name in fleet.shares},
    )
