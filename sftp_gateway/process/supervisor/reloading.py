"""Which configuration the gateway runs, and how it gets another one.

    request("files") ── ConfigProbe reads it in a child ── _probed
      errors        rejected: the current one stays
      as before     nothing else to do
      credentials   running workers reload them
      anything else new workers, one by one; if the first does not start, the old ones stay

Requests that arrive meanwhile become one, which is handled after it.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from sftp_gateway.config.grants import RemovedGrants, removed_grants
from sftp_gateway.config.snapshot import ConfigSnapshot
from sftp_gateway.observability.access_log.events import (
    ConfigurationRefused,
    ConfigurationReloaded,
)
from sftp_gateway.observability.gateway_state import ReloadStatus
from sftp_gateway.process.entrypoints import ProcessEntrypoints
from sftp_gateway.process.loop import Loop
from sftp_gateway.process.observer import ObserverHandle
from sftp_gateway.process.supervisor.admission import AdmissionPolicy
from sftp_gateway.process.supervisor.config_probe import ConfigProbe
from sftp_gateway.process.supervisor.worker_handle import WorkerHandle
from sftp_gateway.process.supervisor.workers import Workers
from sftp_gateway.system import cpus

#: Characters of errors in an event, which has to fit into a datagram.
_MAX_ERRORS_LENGTH: Final = 4096

#: What requests a reload, strongest first: a signal that wants new workers in any case, one that
#: wants an answer, changed files.
_CAUSES: Final = ("restart", "signal", "files")


class ConfigReloader:
    """The configuration in use; it is replaced only by one that workers have taken."""

    def __init__(
        self,
        current: ConfigSnapshot,
        *,
        loop: Loop,
        entrypoints: ProcessEntrypoints,
        workers: Workers,
        policy: AdmissionPolicy,
        observer: ObserverHandle,
    ) -> None:
        self.current = current
        #: Of the workers that have `current`.
        self.generation = 0
        #: For the status page and the metrics.
        self.state = ReloadStatus(succeeded=time.time())
        self._loop = loop
        self._entrypoints = entrypoints
        self._report = entrypoints.report
        self._workers = workers
        self._policy = policy
        self._observer = observer
        self._previous: tuple[ConfigSnapshot, int] | None = None  # until a worker has `current`
        self._applying = False  # until all workers have `current`
        self._probe: ConfigProbe | None = None
        self._requested: str | None = None
        self._reporting = False  # until the last request is accepted or rejected
        self._last_errors: Sequence[str] = ()
        self._cause = ""  # of the last attempt
        self._changed = ""  # by it: "nothing", "credentials" or "all"
        self._removed: RemovedGrants | None = None  # by it

    def start_workers(self) -> None:
        """Start a generation of workers with `current`."""
        settings = self.current.settings
        self._applying = True
        self._policy.configure(settings)
        self._workers.set_target(
            cpus.worker_count(settings.workers),
            generation=self.generation,
            drain_timeout=settings.drain_timeout,
        )

    def request(self, cause: str) -> None:
        """Have the configuration read again, for one of `_CAUSES`; the strongest wins."""
        self._requested = next(each for each in _CAUSES if each in (cause, self._requested))
        self._start_probe()

    def _start_probe(self) -> None:
        if self._requested is None or self._probe is not None or self._applying:
            return
        self._cause, self._changed = self._requested, "nothing"
        self._requested, self._removed = None, None
        self._reporting = True
        load = partial(self._entrypoints.reload, self.current, self._workers.unresponsive_shares())
        try:
            self._probe = ConfigProbe(loop=self._loop, load=load, done=self._probed)
        except OSError as error:
            self._reject([f"the configuration cannot be read: {error}"])

    def _probed(self, found: ConfigSnapshot | list[str]) -> None:
        self._probe = None
        if isinstance(found, list):
            self._reject(found)
        else:
            self._apply(found)
        self._start_probe()

    def _apply(self, found: ConfigSnapshot) -> None:
        """Give the workers what is different."""
        running, self.current = self.current, found
        logins = self._policy.connections.logins()
        self._removed = removed_grants(running.grants, found.grants, logins)
        replaces = found.needs_new_workers(running) or self._cause == "restart"
        reloads = not replaces and found.credentials != running.credentials
        if replaces or reloads or self._cause != "files":
            for warning in found.warnings:
                self._report(f"warning: {warning}")
        if replaces:
            self._changed = "all"
            self._previous = running, self.generation
            self.generation += 1
            self.start_workers()
            return
        self._replace_observer(running)
        if reloads:
            self._changed = "credentials"
            self._applying = True
            self._policy.configure(found.settings)
            self._workers.send_credentials(pickle.dumps(found.credentials))
            self.workers_changed()
        else:
            self._accept()

    def workers_changed(self) -> None:
        """Check whether the workers have what they should have by now."""
        if self._applying and self._workers.converged:
            self._applying = False
            self._commit()
            self._accept()
            self._start_probe()
        elif self._previous is not None and self._workers.has_serving(self.generation):
            self._commit()

    def _commit(self) -> None:
        """A worker serves with `current`: there is no way back."""
        if self._previous is not None:
            previous, self._previous = self._previous[0], None
            self._replace_observer(previous)

    def _replace_observer(self, previous: ConfigSnapshot) -> None:
        if _observer_options(previous) != _observer_options(self.current):
            self._observer.close()  # it ends, and its successor gets the new options

    def worker_ended(self, worker: WorkerHandle) -> None:
        """Roll back if the new configuration keeps workers from starting."""
        if self._previous is not None and worker.generation == self.generation:
            self.current, self.generation = self._previous
            self._previous = None
            self._reject(worker.errors or ["a worker did not start with it"])
            self.start_workers()

    def _reject(self, errors: Sequence[str]) -> None:
        """Report the errors; not again if files change and the errors stay the same."""
        self._reporting = False
        if self._cause == "files" and errors == self._last_errors:
            return
        text = "; ".join(errors)[:_MAX_ERRORS_LENGTH]
        since = self.state.since if self._last_errors else time.time()
        self.state = replace(self.state, errors=text, since=since)
        self._last_errors = errors
        for error in errors:
            self._report(f"error: {error}")
        self._report("New configuration rejected; keeping the current one.")
        self._observer.emit(ConfigurationRefused(cause=self._cause, mistakes=text))

    def _accept(self) -> None:
        """Report the reload, unless changed files turned out to say the same as before."""
        if not self._reporting:  # the start, or a rollback
            return
        self._reporting = False
        silent = self._changed == "nothing" and self._cause == "files" and not self._last_errors
        self._last_errors = ()
        self.state = ReloadStatus(succeeded=time.time())
        if silent:
            return
        removed = self._removed or RemovedGrants(users="", keys="", shares="", sessions=0)
        for sentence in removed.sentences():
            self._report(f"configuration: {sentence}")
        self._observer.emit(
            ConfigurationReloaded(
                workers=self._workers.target,
                cause=self._cause,
                changed=self._changed,
                removed_users=removed.users or None,
                removed_keys=removed.keys or None,
                removed_shares=removed.shares or None,
                removed_sessions=removed.sessions or None,
            )
        )

    def close(self) -> None:
        """Stop: nothing is read or applied any more."""
        self._applying = True
        if self._probe is not None:
            self._probe.close()
            self._probe = None


def _observer_options(snapshot: ConfigSnapshot) -> object:
    """What an observer is started with."""
    settings = snapshot.settings
    return (
        settings.access_log,
        settings.history,
        settings.status,
        settings.auto_reload,
        settings.metrics_names,
        snapshot.status_token,
        snapshot.fingerprints.keys(),
    )
