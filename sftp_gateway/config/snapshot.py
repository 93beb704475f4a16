"""One configuration as it was read: the settings and what they point to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from sftp_gateway.auth import Credentials, HostKey, Trust
from sftp_gateway.config.bootstrap import REVOKED_KEYS, token_file
from sftp_gateway.config.fingerprint import Fingerprints, fingerprint, has_content
from sftp_gateway.config.grants import EVERYBODY, PASSWORD, Grants
from sftp_gateway.config.shares import RELOAD_TIMEOUT, STARTUP_TIMEOUT, probe_shares
from sftp_gateway.config.validate import Findings, validate, watched_files
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.sandbox import policy
from sftp_gateway.server.packets import compatibility
from sftp_gateway.settings import Settings, UserSettings

#: Options of the sockets that the supervisor has open as long as it runs.
_FIXED: Final = ("host", "port", "metrics_host", "metrics_port")

#: Options that running workers reload, with the rest of `CredentialSnapshot`.
_RELOADABLE: Final = frozenset({"users", "end_sessions_of_removed_keys"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialSnapshot:
    """Who may log in with what, and the host keys: what a running worker can reload."""

    users: dict[str, UserSettings]
    credentials: Sequence[Credentials]
    trust: Trust
    host_keys: Sequence[HostKey]
    end_sessions: bool


@dataclass(frozen=True, slots=True)
class ConfigSnapshot:
    """Settings, and what was found where they point to; can be pickled.

    `fingerprints` has the files as they were before they were read. `paths` maps the shares' paths
    to the folders that they led to at the start; `settings` has the latter.
    """

    settings: Settings
    findings: Findings
    fingerprints: Fingerprints = field(default_factory=dict)
    paths: dict[Path, Path] = field(default_factory=dict)

    @property
    def warnings(self) -> Sequence[str]:
        """Sentences for people."""
        unknown = compatibility.unverified() if self.settings.record_layer == "own" else ()
        warnings = [*self.findings.away, *self.findings.warnings]
        if not unknown:
            return warnings
        return [
            *warnings,
            f"record_layer: this gateway does not support the internals of asyncssh "
            f"{version('asyncssh')} ({', '.join(unknown)}), so asyncssh handles all SSH packets, "
            "which is slower; update the gateway",
        ]

    @property
    def record_layer(self) -> str:
        """What encrypts and decrypts SSH packets: "own" or "asyncssh"."""
        return "asyncssh" if compatibility.unverified() else self.settings.record_layer

    @property
    def landlock(self) -> int:
        """The Landlock ABI that confines workers; 0 for none."""
        return policy.version(self.settings.landlock)

    @property
    def status_token(self) -> str | None:
        """What the status page requires; None if nothing."""
        return self.findings.status_token

    @property
    def grants(self) -> Grants:
        """Who may log in with what, and read which shares; without revoked keys."""
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
        return Grants(
            shares={
                name: everything if user.shares == "*" else user.shares
                for name, user in self.settings.users.items()
            },
            keys=keys,
        )

    @property
    def credentials(self) -> CredentialSnapshot:
        """What running workers can reload."""
        return CredentialSnapshot(
            users=self.settings.users,
            credentials=self.findings.credentials,
            trust=self.findings.trust,
            host_keys=self.findings.host_keys,
            end_sessions=self.settings.end_sessions_of_removed_keys,
        )

    def needs_new_workers(self, running: ConfigSnapshot) -> bool:
        """Whether more has changed than workers of the running configuration can reload.

        Workers have the shares' folders open, so another folder at a share's path counts, such as
        that of a disk mounted since. Unavailable shares are left to the workers.
        """
        users, before = self.settings.users, running.settings.users
        roots, roots_before = self.findings.roots, running.findings.roots
        return (
            self.settings.model_dump(exclude=set(_RELOADABLE))
            != running.settings.model_dump(exclude=set(_RELOADABLE))
            or any(_but_password(users[name]) != _but_password(before[name])
                   for name in users.keys() & before.keys())
            or any(roots[name] != roots_before[name]
                   for name in roots.keys() & roots_before.keys())
        )  # fmt: skip


def _but_password(user: UserSettings) -> UserSettings:
    return user.model_copy(update={"password_hash": None, "password_hash_file": None})


def read_config(
    load: Callable[[], Settings],
    config_file: Path,
    *,
    prepare: Callable[[Settings], None] = lambda settings: None,
) -> ConfigSnapshot:
    """Read the settings, run `prepare`, and validate what they point to.

    Raises ConfigurationError.
    """
    fingerprints = dict(fingerprint([config_file]))
    settings = load()
    prepare(settings)
    return _validated(settings, config_file, fingerprints)


def reread_config(
    load: Callable[[], Settings],
    config_file: Path,
    running: ConfigSnapshot,
    *,
    unresponsive: Collection[str] = (),
) -> ConfigSnapshot:
    """The configuration as it is now; options that require a restart keep their values.

    Shares that are `unresponsive` are not probed. Raises ConfigurationError.
    """
    fingerprints = dict(fingerprint([config_file]))
    _check_not_gone(config_file, running)
    loaded = load()
    kept = {name: getattr(running.settings, name) for name in _FIXED}
    changed = [name for name, value in kept.items() if value != getattr(loaded, name)]
    settings = loaded.model_copy(update=kept)
    snapshot = _validated(
        settings, config_file, fingerprints, running=running, unresponsive=unresponsive
    )
    _check_still_revoked(snapshot, running)
    _check_token_asked_for(snapshot, running)
    snapshot.findings.warnings += [
        f"{name}: changing it requires a restart; keeping {kept[name]!r}" for name in changed
    ]
    return snapshot


def inspect_config(
    settings: Settings,
    config_file: Path,
    *,
    running: ConfigSnapshot | None = None,
    unresponsive: Collection[str] = (),
) -> ConfigSnapshot:
    """What is found where the settings point to, mistakes too.

    Links in the paths of shares are resolved once, at the start: whoever can write above a share
    could replace them later.
    """
    named = {name: share.path for name, share in settings.shares.items()}
    known = running.paths if running else {}
    probes = probe_shares(
        named,
        known=known,
        timeout=RELOAD_TIMEOUT if running else STARTUP_TIMEOUT,
        unresponsive=unresponsive,
    )
    paths = {path: known[path] for path in named.values() if path in known}
    paths |= {
        named[name]: probe.location.path for name, probe in probes.items() if not probe.problem
    }
    shares = {
        name: share.model_copy(update={"path": paths.get(share.path, probes[name].location.path)})
        for name, share in settings.shares.items()
    }
    settings = settings.model_copy(update={"shares": shares})
    findings = asyncio.run(
        validate(
            settings,
            config_file=config_file,
            probes=probes,
            running=running.settings if running else None,
        )
    )
    return ConfigSnapshot(settings, findings, paths=paths)


def _validated(
    settings: Settings,
    config_file: Path,
    fingerprints: Fingerprints,
    *,
    running: ConfigSnapshot | None = None,
    unresponsive: Collection[str] = (),
) -> ConfigSnapshot:
    fingerprints = {**fingerprint(watched_files(settings, config_file)), **fingerprints}
    snapshot = inspect_config(settings, config_file, running=running, unresponsive=unresponsive)
    findings = snapshot.findings
    if findings.errors:
        raise ConfigurationError([*findings.errors, *findings.away])
    return replace(snapshot, fingerprints=fingerprints)


def _check_not_gone(config_file: Path, running: ConfigSnapshot) -> None:
    """A missing or empty file would enable the defaults, and with them removed users. An editor or
    a full disk may have left it so."""
    if not has_content(running.fingerprints.get(str(config_file), ())):
        return
    try:
        if config_file.read_bytes().strip():
            return
        what = "is empty"
    except FileNotFoundError:
        what = "is gone"
    except OSError:
        return  # reported when it is read
    raise ConfigurationError(
        [
            f"{config_file} {what}, but had options before; to use the defaults, write a comment "
            "(#) into it"
        ]
    )


def _check_token_asked_for(snapshot: ConfigSnapshot, running: ConfigSnapshot) -> None:
    """Without the token, everybody with an account on this machine would see the page."""
    before, after = running.settings, snapshot.settings
    shown = after.status.enabled and after.metrics_are_local and snapshot.status_token is None
    asked = running.status_token is not None and before.status.token is None
    if shown and asked and not token_file(before).exists():
        raise ConfigurationError(
            [
                f"{token_file(running.settings)} is gone, and the status page requires the token "
                "in it; restore it, or restart the gateway to show the page without a token"
            ]
        )


def _check_still_revoked(snapshot: ConfigSnapshot, running: ConfigSnapshot) -> None:
    """A missing list may be one that is being rewritten, or was deleted by mistake."""
    path = snapshot.settings.keys_dir / REVOKED_KEYS
    revoked = running.findings.trust.revoked
    if revoked != Trust().revoked and not path.exists():
        raise ConfigurationError(
            [f"{path} is gone, which would undo all revocations; to revoke nothing, make it empty"]
        )
