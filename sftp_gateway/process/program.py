"""What the supervisor is given: the program that its processes run, and a plan for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar

from sftp_gateway.config.credentials import Served
from sftp_gateway.config.fingerprint import Looks
from sftp_gateway.observability.metrics.shared_memory import Memory, SharedValues
from sftp_gateway.settings import Settings


class Plan(Protocol):
    """A configuration that was looked at and found good; can be pickled."""

    @property
    def settings(self) -> Settings:
        """The options."""

    @property
    def warnings(self) -> Sequence[str]:
        """What people should know of it."""

    @property
    def record_layer(self) -> str:
        """Who seals and opens SSH packets, for the access log."""

    @property
    def landlock(self) -> int:
        """The version of Landlock that confines workers; 0 for none."""

    @property
    def status_token(self) -> str | None:
        """What the status page asks for."""

    @property
    def served(self) -> Served:
        """Who may log in with what, and read which shares."""

    @property
    def seen(self) -> Looks:
        """How the files that it was read from looked before."""

    @property
    def access(self) -> object:
        """Who may log in: what running workers can take over. Can be pickled and compared."""

    def needs_new_workers(self, running: Any) -> bool:
        """Whether more than `access` is different."""


AnyPlan = TypeVar("AnyPlan", bound=Plan)


class Program(Protocol[AnyPlan]):
    """What the processes do; and `report`, which tells people."""

    report: Callable[[str], None]

    def load(self, running: AnyPlan, hanging: Collection[str]) -> AnyPlan:
        """Read the configuration again, in a child; the disks of shares that are `hanging` do not
        answer. Raises ConfigurationError."""

    def work(
        self, plan: AnyPlan, control: socket.socket, values: SharedValues, log: socket.socket
    ) -> None:
        """Be a worker at this end of the supervisor's socket; `log` takes lines of its log."""

    def observe(
        self,
        plan: AnyPlan,
        control: socket.socket,
        listener: socket.socket,
        memories: dict[str, Memory],
        logs: Sequence[socket.socket],
    ) -> None:
        """Be the observer, which reads the metrics in `memories`, by their writers, and writes
        what `logs` bring."""

    def greet(self, plan: AnyPlan, port: int) -> None:
        """Every worker serves: tell people."""
