"""Asks for a new configuration, tries it in a child, and tells what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Generic, TypeVar

from sftp_gateway.config.credentials import Removal
from sftp_gateway.observability.access_log.events import (
    ConfigurationRefused,
    ConfigurationReloaded,
    Event,
)
from sftp_gateway.observability.gateway_state import ReloadStatus
from sftp_gateway.process.loop import Loop
from sftp_gateway.process.supervisor.config_probe import ConfigProbe

Plan = TypeVar("Plan")

#: Characters of mistakes in an event, which has to fit into a datagram.
_MAX_ERRORS_LENGTH: Final = 4096


#: What asks for a configuration: a signal that wants new workers whatever has changed, one that
#: wants an answer, and files that have changed.
_CAUSES: Final = ("restart", "signal", "files")


class Reloading(Generic[Plan]):
    """One configuration is tried at a time; what is asked for meanwhile is tried after it.

    `take` is called with one that is good, and `again` where one was not, so that the next may be
    begun.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        fork: Callable[[Callable[[], None]], int],
        load: Callable[[], Plan],
        take: Callable[[Plan], None],
        again: Callable[[], None],
        report: Callable[[str], None],
        emit: Callable[[Event], None],
    ) -> None:
        self._loop = loop
        self._fork = fork
        self._load = load
        self._take = take
        self._again = again
        self._say = report
        self._emit = emit
        self._trial: ConfigProbe[Plan] | None = None
        self._wanted: str | None = None
        self._refused: Sequence[str] = ()  # the last mistakes
        self._trying = False  # until it is taken or refused
        #: What came of it, for people.
        self.state = ReloadStatus(succeeded=time.time())
        self.removal: Removal | None = None  # by the one that is being taken
        self.cause = ""  # of the last attempt
        self.changed = ""  # by it: "nothing", "credentials" or "all"

    def ask(self, cause: str) -> None:
        """The configuration should be read again, for one of `_CAUSES`: the strongest counts."""
        self._wanted = next(each for each in _CAUSES if each in (cause, self._wanted))

    def begin(self) -> None:
        """Try the configuration, if that is wanted and none is being tried."""
        if self._wanted is None or self._trial is not None:
            return
        self.cause, self.changed = self._wanted, "nothing"
        self._wanted, self.removal = None, None
        self._trying = True
        try:
            self._trial = ConfigProbe(
                loop=self._loop, fork=self._fork, load=self._load, done=self._tried
            )
        except OSError as error:
            self.refuse([f"it cannot be read: {error}"])

    def _tried(self, found: Plan | list[str]) -> None:
        self._trial = None
        if isinstance(found, list):
            self.refuse(found)
            self._again()
        else:
            self._take(found)

    def refuse(self, errors: Sequence[str]) -> None:
        """Tell what is wrong; once, where a signal asks for it and its files have changed too."""
        self._trying = False
        if self.cause == "files" and errors == self._refused:
            return
        told = "; ".join(errors)[:_MAX_ERRORS_LENGTH]
        since = self.state.since if self._refused else time.time()
        self.state = replace(self.state, errors=told, since=since)
        self._refused = errors
        for message in errors:
            self._say(f"error: {message}")
        self._say("The configuration is not taken; the old one stays.")
        self._emit(ConfigurationRefused(cause=self.cause, mistakes=told))

    def succeed(self, workers: int) -> None:
        """So many workers have it. It is told, unless it is only what they have already."""
        if not self._trying:  # they have the old one again
            return
        self._trying = False
        silent = self.changed == "nothing" and self.cause == "files" and not self._refused
        self._refused = ()
        self.state = ReloadStatus(succeeded=time.time())
        if silent:
            return
        removal = self.removal or Removal(users="", keys="", shares="", sessions=0)
        for sentence in removal.sentences():
            self._say(f"configuration: {sentence}")
        self._emit(
            ConfigurationReloaded(
                workers=workers,
                cause=self.cause,
                changed=self.changed,
                removed_users=removal.users or None,
                removed_keys=removal.keys or None,
                removed_shares=removal.shares or None,
                removed_sessions=removal.sessions or None,
            )
        )

    def close(self) -> None:
        """Let what is being tried come to nothing."""
        if self._trial is not None:
            self._trial.close()
            self._trial = None

    def abandon(self) -> None:
        """In another child: close what was the parent's."""
        if self._trial is not None:
            self._trial.abandon()
