"""The state of all processes, as the supervisor reports it, and their health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

#: Seconds without a heartbeat after which a process is not responding; it sends two a second.
HEARTBEAT_TIMEOUT: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One worker; `problems` are those of the shares that it cannot read."""

    number: int
    pid: int
    ready: bool  # serving, or finishing its sessions
    seen: float  # time of the last heartbeat, by the monotonic clock
    problems: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ban:
    """A source that is refused or throttled for another `seconds`; as in `source_banned`."""

    source: str
    reason: str
    times: int
    effect: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadStatus:
    """The result of the last reload; times in seconds since 1970.

    `errors` are those of the configuration rejected at `since`, "" if the last one was accepted;
    `succeeded` is the time of the last successful reload.
    """

    succeeded: float = 0.0
    errors: str = ""
    since: float = 0.0

    def __str__(self) -> str:
        if not self.errors:
            return "ok"
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"refused since {since}: {self.errors}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayState:
    """The state at `time`, by the monotonic clock."""

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
    reload: ReloadStatus = ReloadStatus()
    #: As config/grants.py writes it; added by the observer, because it can be long.
    served: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`alive`: clients are served. `ready`: new ones can be, and every share.

    `details` has one entry per share: "ok", or why it is not. `configuration` is "ok" too, or why
    the newest one was refused; the gateway serves by the one before, so it is as ready as it was.
    """

    alive: bool
    ready: bool
    configuration: str = "ok"
    details: Mapping[str, str] = field(default_factory=dict)


def health(state: GatewayState | None, now: float) -> Health:
    """The health of all processes together; `state` is None before the supervisor has reported.

    Raises TimeoutError if a process has missed its heartbeats for HEARTBEAT_TIMEOUT seconds.
    """
    if state is None or now - state.time > HEARTBEAT_TIMEOUT:
        raise TimeoutError
    ready = [worker for worker in state.workers if worker.ready]
    if any(now - worker.seen > HEARTBEAT_TIMEOUT for worker in ready):
        raise TimeoutError
    problems = {name: text for worker in ready for name, text in worker.problems.items()}
    return Health(
        alive=bool(ready),
        ready=not state.stopping and bool(ready) and not problems,
        configuration=str(state.reload),
        details={name: problems.get(name, "ok") for name in state.shares},
    )
