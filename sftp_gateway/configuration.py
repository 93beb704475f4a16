"""One configuration as it was read: settings, what they point to, and what a change of it takes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from sftp_gateway.auth import Credentials, HostKey, Trust
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.first_start import REVOKED_KEYS
from sftp_gateway.inspection import Findings, inspect, watched_files
from sftp_gateway.process import confinement, watch
from sftp_gateway.server.packets import compatibility
from sftp_gateway.settings import Settings, UserSettings

#: Options of what the supervisor has open for as long as it lives.
_FIXED: Final = ("host", "port", "metrics_host", "metrics_port")

#: Options that running workers take over, with all that is in `Access`.
_TAKEN_OVER: Final = frozenset({"users", "end_sessions_of_removed_keys"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may log in, and by which keys the gateway is known; a running worker can take it over."""

    users: dict[str, UserSettings]
    credentials: Sequence[Credentials]
    trust: Trust
    host_keys: Sequence[HostKey]
    end_sessions: bool


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and what was found where they point to.

    `seen` is how the files looked before they were read. `paths` are those that shares were
    named by, and the folders that they led to then: `settings` has these.
    """

    settings: Settings
    findings: Findings
    seen: watch.Looks = field(default_factory=dict)
    paths: dict[Path, Path] = field(default_factory=dict)

    @property
    def warnings(self) -> Sequence[str]:
        """What people should know of it."""
        unknown = compatibility.changed() if self.settings.record_layer == "own" else ()
        if not unknown:
            return self.findings.warnings
        return [
            *self.findings.warnings,
            f"record_layer: asyncssh {version('asyncssh')} is not a version whose inside is known "
            f"({', '.join(unknown)}); it handles all SSH packets itself, which is slower, until a "
            "newer gateway knows it",
        ]

    @property
    def record_layer(self) -> str:
        """Who seals and opens SSH packets: "own" or "asyncssh"."""
        return "asyncssh" if compatibility.changed() else self.settings.record_layer

    @property
    def landlock(self) -> int:
        """The version of Landlock that confines workers; 0 for none."""
        return confinement.version(self.settings.landlock)

    @property
    def status_token(self) -> str | None:
        """What the status page asks for; None for nothing."""
        return self.findings.status_token

    @property
    def access(self) -> Access:
        """What running workers can take over."""
        return Access(
            users=self.settings.users,
            credentials=self.findings.credentials,
            trust=self.findings.trust,
            host_keys=self.findings.host_keys,
            end_sessions=self.settings.end_sessions_of_removed_keys,
        )

    def needs_new_workers(self, running: Configuration) -> bool:
        """Whether more is different than workers of the running configuration can take over.

        A share's folder counts too: workers have it open, and it may be another one by now, such
        as that of a disk which was mounted since.
        """
        users, before = self.settings.users, running.settings.users
        return (
            self.settings.model_dump(exclude=set(_TAKEN_OVER))
            != running.settings.model_dump(exclude=set(_TAKEN_OVER))
            or any(_but_password(users[name]) != _but_password(before[name])
                   for name in users.keys() & before.keys())
            or self.findings.roots != running.findings.roots
        )  # fmt: skip


def _but_password(user: UserSettings) -> UserSettings:
    return user.model_copy(update={"password_hash": None, "password_hash_file": None})


def read(
    load: Callable[[], Settings],
    config_file: Path,
    *,
    prepare: Callable[[Settings], None] = lambda settings: None,
) -> Configuration:
    """Read the settings and look at everything that they point to, after `prepare`.

    Raises ConfigurationError.
    """
    seen = dict(watch.look([config_file]))
    settings = load()
    prepare(settings)
    return _good(settings, config_file, seen, known={})


def read_again(
    load: Callable[[], Settings], config_file: Path, running: Configuration
) -> Configuration:
    """The configuration as it is now; what needs a start to change stays as it runs.

    Raises ConfigurationError.
    """
    seen = dict(watch.look([config_file]))
    loaded = load()
    kept = {name: getattr(running.settings, name) for name in _FIXED}
    changed = [name for name, value in kept.items() if value != getattr(loaded, name)]
    settings = loaded.model_copy(update=kept)
    configuration = _good(settings, config_file, seen, known=running.paths)
    _check_still_revoked(configuration, running)
    configuration.findings.warnings += [
        f"{name}: stays {kept[name]!r} until the gateway is started again" for name in changed
    ]
    return configuration


def inspected(settings: Settings, *, known: Mapping[Path, Path]) -> Configuration:
    """What is found where the settings point to, mistakes too.

    Links in the paths of shares are followed, but where it is `known` what they led to before.
    """
    settings, paths = _followed(settings, known)
    return Configuration(settings, asyncio.run(inspect(settings)), paths=paths)


def _good(
    settings: Settings,
    config_file: Path,
    seen: dict[str, tuple[int, ...]],
    *,
    known: Mapping[Path, Path],
) -> Configuration:
    seen = {**watch.look(watched_files(settings, config_file)), **seen}
    configuration = inspected(settings, known=known)
    if configuration.findings.mistakes:
        raise ConfigurationError(configuration.findings.mistakes)
    return replace(configuration, seen=seen)


def _followed(settings: Settings, known: Mapping[Path, Path]) -> tuple[Settings, dict[Path, Path]]:
    """The settings with shares' folders in the place of paths that may lead through links.

    A path is followed once, and leads to the same folder from then on: whoever can write above a
    share could put a link there that leads to something else.
    """
    paths, shares = {}, {}
    for name, share in settings.shares.items():
        path = known.get(share.path)
        if path is None:  # what is not there is told of as it was written
            exists = os.path.isdir(share.path)
            path = Path(os.path.realpath(share.path)) if exists else share.path
        paths[share.path] = path
        shares[name] = share.model_copy(update={"path": path})
    return settings.model_copy(update={"shares": shares}), paths


def _check_still_revoked(configuration: Configuration, running: Configuration) -> None:
    """A list that is gone may be one that is just written anew, or was deleted by mistake."""
    path = configuration.settings.keys_dir / REVOKED_KEYS
    revoked = running.findings.trust.revoked
    if revoked != Trust().revoked and not path.exists():
        raise ConfigurationError(
            [f"{path} is gone, and with it what is revoked; to revoke nothing, make it empty"]
        )
