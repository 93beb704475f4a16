"""What each process of the gateway runs, and which descriptors it inherits."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sftp_gateway.config.snapshot import ConfigSnapshot
from sftp_gateway.observability.history.channel import HistoryChannel
from sftp_gateway.observability.metrics.shared_memory import Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerResources:
    """What a worker inherits from the supervisor."""

    control: socket.socket
    """Its end of the supervisor's socket."""
    memory: Memory
    """Where it counts its metrics."""
    log: socket.socket
    """Takes lines of the access log."""
    history: HistoryChannel

    @property
    def descriptors(self) -> Collection[int]:
        """Those that stay open."""
        memory, history = self.memory, self.history
        return (
            self.control.fileno(),
            self.log.fileno(),
            memory.counts,
            memory.gauges,
            history.sender,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverResources:
    """What the observer inherits from the supervisor."""

    control: socket.socket
    listener: socket.socket
    """The HTTP endpoint's."""
    memories: dict[str, Memory]
    """The metrics of every process, by name."""
    logs: Sequence[socket.socket]
    """They bring lines of the access log."""
    history: HistoryChannel

    @property
    def descriptors(self) -> Collection[int]:
        """Those that stay open."""
        sockets = (self.control, self.listener, *self.logs)
        memories = self.memories.values()
        return (
            *(each.fileno() for each in sockets),
            *(descriptor for each in memories for descriptor in (each.counts, each.gauges)),
            self.history.sender,
            self.history.receiver,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEntrypoints:
    """What the processes run; all but `announce` and `report` in a child."""

    reload: Callable[[ConfigSnapshot, Collection[str]], ConfigSnapshot]
    """Reads the configuration again: (running, shares whose disks do not answer). Raises
    ConfigurationError."""
    worker: Callable[[ConfigSnapshot, WorkerResources], None]
    observer: Callable[[ConfigSnapshot, ObserverResources], None]
    announce: Callable[[ConfigSnapshot, int], None]
    """Tells people that the gateway serves at a port."""
    report: Callable[[str], None]
    """Prints a line for people."""
