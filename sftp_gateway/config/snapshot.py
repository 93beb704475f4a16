"""One configuration as it was read: settings, what they point to, and what a change of it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from sftp_gateway.auth import Credentials, HostKey, Trust
from sftp_gateway.config import fingerprint as watch
from sftp_gateway.config import shares as share_folders
from sftp_gateway.config.bootstrap import REVOKED_KEYS, token_file
from sftp_gateway.config.credentials import EVERYBODY, PASSWORD, Served
from sftp_gateway.config.validate import Findings, inspect, watched_files
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.sandbox import policy as confinement
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
        unknown = compatibility.unverified() if self.settings.record_layer == "own" else ()
        warnings = [*self.findings.away, *self.findings.warnings]
        if not unknown:
            return warnings
        return [
            *warnings,
            f"record_layer: asyncssh {version('asyncssh')} is not a version whose inside is known "
            f"({', '.join(unknown)}); it handles all SSH packets itself, which is slower, until a "
            "newer gateway knows it",
        ]

    @property
    def record_layer(self) -> str:
        """Who seals and opens SSH packets: "own" or "asyncssh"."""
        return "asyncssh" if compatibility.unverified() else self.settings.record_layer

    @property
    def landlock(self) -> int:
        """The version of Landlock that confines workers; 0 for none."""
        return confinement.version(self.settings.landlock)

    @property
    def status_token(self) -> str | None:
        """What the status page asks for; None for nothing."""
        return self.findings.status_token

    @property
    def served(self) -> Served:
        """Who may log in with what, and read which shares; what is revoked is not among it."""
        revoked = self.findings.trust.revoked
        lines = {each.user: list(each.keys.keys) for each in self.findings.credentials}
        lines[EVERYBODY] = list(self.findings.trust.authorities.keys)
        keys = {
            user: {k.fingerprint: k.comment for k in each if not revoked.revokes_key(k.blob)}
            for user, each in lines.items()
        }
        for each in self.findings.credentials:
            if each.password_hash is not None:
                keys[each.user][PASSWORD] = ""
        everything = tuple(self.settings.shares)
        return Served(
            shares={
                name: everything if user.shares == "*" else user.shares
                for name, user in self.settings.users.items()
            },
            keys=keys,
        )

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

        A share's folder does too: workers have it open, and it may be another one by now, such as
        that of a disk which was mounted since. One that could not be looked at is left to them.
        """
        users, before = self.settings.users, running.settings.users
        roots, roots_before = self.findings.roots, running.findings.roots
        return (
            self.settings.model_dump(exclude=set(_TAKEN_OVER))
            != running.settings.model_dump(exclude=set(_TAKEN_OVER))
            or any(_but_password(users[name]) != _but_password(before[name])
                   for name in users.keys() & before.keys())
            or any(roots[name] != roots_before[name]
                   for name in roots.keys() & roots_before.keys())
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
    return _good(settings, config_file, seen)


def read_again(
    load: Callable[[], Settings],
    config_file: Path,
    running: Configuration,
    *,
    hanging: Collection[str] = (),
) -> Configuration:
    """The configuration as it is now; what needs a start to change stays as it runs.

    Shares that are `hanging` are not looked at. Raises ConfigurationError.
    """
    seen = dict(watch.look([config_file]))
    _check_not_gone(config_file, running)
    loaded = load()
    kept = {name: getattr(running.settings, name) for name in _FIXED}
    changed = [name for name, value in kept.items() if value != getattr(loaded, name)]
    settings = loaded.model_copy(update=kept)
    configuration = _good(settings, config_file, seen, running=running, hanging=hanging)
    _check_still_revoked(configuration, running)
    _check_token_asked_for(configuration, running)
    configuration.findings.warnings += [
        f"{name}: stays {kept[name]!r} until the gateway is started again" for name in changed
    ]
    return configuration


def inspected(
    settings: Settings,
    config_file: Path,
    *,
    running: Configuration | None = None,
    hanging: Collection[str] = (),
) -> Configuration:
    """What is found where the settings point to, mistakes too.

    Links in the paths of shares are followed once, at the start: a path leads to the same folder
    from then on, because whoever can write above a share could put a link there that leads to
    something else.
    """
    named = {name: share.path for name, share in settings.shares.items()}
    known = running.paths if running else {}
    looks = share_folders.look(
        named,
        known=known,
        seconds=share_folders.RUNNING if running else share_folders.AT_START,
        hanging=hanging,
    )
    paths = {path: known[path] for path in named.values() if path in known}
    paths |= {named[name]: look.place.path for name, look in looks.items() if not look.problem}
    shares = {
        name: share.model_copy(update={"path": paths.get(share.path, looks[name].place.path)})
        for name, share in settings.shares.items()
    }
    settings = settings.model_copy(update={"shares": shares})
    findings = asyncio.run(
        inspect(
            settings,
            config_file=config_file,
            looks=looks,
            running=running.settings if running else None,
        )
    )
    return Configuration(settings, findings, paths=paths)


def _good(
    settings: Settings,
    config_file: Path,
    seen: dict[str, tuple[int, ...]],
    *,
    running: Configuration | None = None,
    hanging: Collection[str] = (),
) -> Configuration:
    seen = {**watch.look(watched_files(settings, config_file)), **seen}
    configuration = inspected(settings, config_file, running=running, hanging=hanging)
    findings = configuration.findings
    if findings.errors:
        raise ConfigurationError([*findings.errors, *findings.away])
    return replace(configuration, seen=seen)


def _check_not_gone(config_file: Path, running: Configuration) -> None:
    """Without its text, all would be served that is served by default: whoever may not any more,
    too. An editor or a full disk may have left nothing of it."""
    if not watch.has_content(running.seen.get(str(config_file), ())):
        return
    try:
        if config_file.read_bytes().strip():
            return
        what = "is empty"
    except FileNotFoundError:
        what = "is gone"
    except OSError:
        return  # said where it is read
    raise ConfigurationError(
        [
            f"{config_file} {what}, and it had a configuration; to serve what is served by "
            "default, write a comment (#) into it"
        ]
    )


def _check_token_asked_for(configuration: Configuration, running: Configuration) -> None:
    """Without the token, the page is shown to whoever has an account on this machine."""
    before, after = running.settings, configuration.settings
    shown = after.status.enabled and after.metrics_are_local and configuration.status_token is None
    asked = running.status_token is not None and before.status.token is None
    if shown and asked and not token_file(before).exists():
        raise ConfigurationError(
            [
                f"{token_file(running.settings)} is gone, and the status page asked for the token "
                "in it; put it back, or start the gateway again to show the page without one"
            ]
        )


def _check_still_revoked(configuration: Configuration, running: Configuration) -> None:
    """A list that is gone may be one that is just written anew, or was deleted by mistake."""
    path = configuration.settings.keys_dir / REVOKED_KEYS
    revoked = running.findings.trust.revoked
    if revoked != Trust().revoked and not path.exists():
        raise ConfigurationError(
            [f"{path} is gone, and with it what is revoked; to revoke nothing, make it empty"]
        )
