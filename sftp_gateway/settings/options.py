"""`Settings`: the top-level options, and the tables."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from sftp_gateway.settings.origins import Origins
from sftp_gateway.settings.tables.access_log import AccessLogSettings
from sftp_gateway.settings.tables.base import Table
from sftp_gateway.settings.tables.history import HistorySettings
from sftp_gateway.settings.tables.penalties import PenaltySettings
from sftp_gateway.settings.tables.shares import ShareSettings, default_shares
from sftp_gateway.settings.tables.status import StatusSettings
from sftp_gateway.settings.tables.users import UserSettings, default_users
from sftp_gateway.settings.tables.values import (
    Bytes,
    CipherNames,
    NetworkText,
    Port,
    Seconds,
    ShareName,
    StartupsText,
    UserName,
    Workers,
)

_GIB: Final = 1024**3


def default_tables() -> Mapping[str, Mapping[str, Table]]:
    """The default users and shares, which the configuration may switch off by name."""
    return {"users": default_users(), "shares": default_shares()}


class Settings(Table):
    """All options; relative paths are relative to the working directory."""

    _origins: Origins = PrivateAttr(default_factory=Origins)

    host: str = Field("", description="The address to listen on; empty means all of them.")
    port: Port = Field(2222, description="The port of the SSH server; 0 picks a free one.")
    public_host: str = Field(
        "localhost",
        description="This machine's name for workers, in the mount command that is printed.",
    )
    public_port: Port | None = Field(
        None,
        description="The port for workers, if it differs (a published port).",
    )
    keys_dir: Path = Field(
        Path("keys"),
        description=(
            "The folder with the host key (ssh_host_ed25519_key, optionally ssh_host_rsa_key), "
            "authorized_keys/ with one file per user, and optionally user_ca_keys and "
            "revoked_keys."
        ),
    )
    auto_setup: bool = Field(
        True,
        description=(
            "Create a missing host key, a worker's key pair and missing folders of the default "
            "shares at the start."
        ),
    )
    auto_reload: bool = Field(
        True,
        description=(
            "Reload the configuration file, keys and password hash files within a few seconds "
            "of a change. Without it, they are reloaded on SIGHUP."
        ),
    )
    end_sessions_of_removed_keys: bool = Field(
        True,
        description=(
            "End the sessions that logged in with a key, certificate authority, password or "
            "user that is removed, or with a key or certificate that is revoked. Sessions whose "
            "key or certificate only expires continue."
        ),
    )
    defaults: bool = Field(
        True,
        description=(
            "Keep the default user and the default shares in addition to those that the "
            "configuration names. With `false`, only the latter are served."
        ),
    )
    users: dict[UserName, UserSettings] = Field(
        default_factory=default_users,
        description="The users that may log in, in addition to the default one.",
    )
    shares: dict[ShareName, ShareSettings] = Field(
        default_factory=default_shares,
        description="The exported folders, in addition to the default ones.",
    )
    show_uid: int | None = Field(
        None,
        ge=0,
        le=0xFFFFFFFF,
        description="Show this owner for all files, instead of the real one.",
    )
    show_gid: int | None = Field(
        None,
        ge=0,
        le=0xFFFFFFFF,
        description="Show this group for all files, instead of the real one.",
    )
    show_mode: Literal["real", "read-only"] = Field(
        "real",
        description=(
            "The permission bits that clients see and copies get. `real`: those of the file, so "
            "that the owner of a copy can change it. `read-only`: the same without `w`. In both "
            "cases, what the gateway can read is shown as readable for all, because it reads "
            "for all; nothing can be written."
        ),
    )
    access_log: AccessLogSettings = Field(
        default_factory=AccessLogSettings, description="See the options below."
    )
    history: HistorySettings = Field(
        default_factory=HistorySettings, description="See the options below."
    )
    status: StatusSettings = Field(
        default_factory=StatusSettings, description="See the options below."
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description=(
            "The address of the metrics, health and status endpoint. Metrics and health require "
            "no password, so let only your monitoring reach it. The status page requires a "
            "token unless this is 127.0.0.1 or ::1."
        ),
    )
    metrics_port: Port = Field(
        9222, description="The port of metrics, health and status page; 0 picks a free one."
    )
    metrics_allowed_hosts: tuple[str, ...] = Field(
        (),
        description=(
            "Host names under which metrics may be requested, in addition to addresses, names "
            "without a dot, `metrics_host`, `public_host` and the machine's own name; `*` "
            "allows any. This keeps web pages from reading them through a browser (DNS "
            "rebinding)."
        ),
    )
    ciphers: Literal["fast", "compatible"] | CipherNames = Field(
        "fast",
        description=(
            "`fast` offers AES-GCM if the processor has AES instructions, because stock clients "
            "would otherwise choose the slower chacha20-poly1305; only clients without AES-GCM "
            "(paramiko before 3.5, libssh2 before 1.11), which are recognized by version string "
            "and key exchange, are also offered AES-CTR. `compatible` offers AES-GCM, "
            "chacha20-poly1305, AES-CTR and plain HMACs to all, so that the client's order "
            "decides. A list of names offers exactly these to all."
        ),
    )
    nist_curves: bool = Field(
        False,
        description=(
            "Accept ECDSA keys, which are on the NIST curves: users' keys (also in security "
            "keys) and ssh_host_ecdsa_key. Without it they are ignored, with a warning for "
            "each."
        ),
    )
    rekey_limit: Bytes = Field(
        _GIB,
        ge=1024 * 1024,
        le=64 * _GIB,  # RFC 4344 §3.2: no more than 2**32 blocks of 16 bytes with one key
        description=(
            "Bytes sent to a client after which the gateway requests a key exchange. Received "
            "bytes do not count: requests are small, and clients have limits of their own. A "
            "key exchange also takes place once an hour."
        ),
    )
    record_layer: Literal["own", "asyncssh"] = Field(
        "own",
        description=(
            "What encrypts and decrypts SSH packets: the gateway itself, or asyncssh, which is "
            "slower. With a version of asyncssh that it does not support, the gateway falls "
            "back to asyncssh by itself; use this option only to find out whether a fault is in "
            "the gateway's own code."
        ),
    )
    landlock: Literal["auto", "require", "off"] = Field(
        "auto",
        description=(
            "Whether the kernel confines the processes too (Landlock), so that even a fault in "
            "the gateway cannot read anything but the shares, change a file, execute a program "
            "or open a TCP connection. `auto` does as much as the kernel supports and warns "
            "about what is missing; `require` does not start if files cannot be confined; `off` "
            "disables it. See docs/security.md."
        ),
    )
    login_grace_time: Seconds = Field(
        30.0, gt=0, le=3600, description="Seconds in which a client has to log in."
    )
    max_auth_tries: int = Field(
        6, ge=1, le=100, description="Failed login attempts after which a connection is closed."
    )
    keepalive_interval: Seconds = Field(
        15.0,
        gt=0,
        le=3600,
        description="Seconds without data from a client after which a keepalive request is sent.",
    )
    keepalive_count_max: int = Field(
        2,
        ge=1,
        le=100,
        description=(
            "Unanswered keepalive requests after which a client is disconnected, one "
            "`keepalive_interval` after the last of them."
        ),
    )
    workers: Workers = Field(
        "auto",
        description=(
            "Processes that serve clients. `auto` starts one for each processor that the "
            "gateway may use (its CPU set and its container's CPU limit), at most 8. Each "
            "connection is served by one of them; sshfs with `max_conns=N` uses several."
        ),
    )
    max_connections: int = Field(
        2000,
        ge=1,
        le=1_000_000,
        description=(
            "Connections that may be open at once in all workers, authenticated or not. Further "
            "ones are closed immediately."
        ),
    )
    disk_timeout: Seconds = Field(
        60.0,
        gt=0,
        le=86_400,
        description=(
            "Seconds that a request may wait for a share's disk, including for other requests "
            "that wait for it. Then it fails, and a late result is discarded. A failed read "
            "ends its session (see `read_errors` of the share); mounts need `reconnect` to "
            "recover. The default is longer than a disk takes to spin up, or Linux to retry a "
            "SCSI command (30 s); a share on NFS with failover may need more."
        ),
    )
    max_connections_per_source: int = Field(
        1500,
        ge=1,
        le=1_000_000,
        description=(
            "Connections that may be open at once from one source: an IPv4 address, or a /64 of "
            "IPv6."
        ),
    )
    max_startups: StartupsText = Field(
        "1000:30:1500",
        description=(
            "`start:rate:full`: with `start` unauthenticated connections open, `rate` percent "
            "of new ones are refused at random; the percentage grows to 100 at `full` (as "
            "MaxStartups of sshd)."
        ),
    )
    max_startups_per_source: int = Field(
        750,
        ge=1,
        le=1_000_000,
        description="Unauthenticated connections that may be open at once from one source.",
    )
    max_sessions_per_user: int = Field(
        2000,
        ge=1,
        le=1_000_000,
        description="Connections that one user may have at once, in all workers.",
    )
    source_ipv4_prefix: int = Field(
        32, ge=0, le=32, description="Bits of an IPv4 address that identify a source."
    )
    source_ipv6_prefix: int = Field(
        64,
        ge=0,
        le=128,
        description="Bits of an IPv6 address that identify a source; a host often has a /64.",
    )
    allow_from: tuple[NetworkText, ...] = Field(
        (),
        description=(
            "Addresses and networks that may connect; others are disconnected before any data "
            "is sent. Empty allows all."
        ),
    )
    penalties: PenaltySettings = Field(
        default_factory=PenaltySettings, description="See the options below."
    )
    idle_timeout: Seconds = Field(
        0.0,
        ge=0,
        le=31_536_000,
        description=(
            "Seconds without an SFTP request after which an authenticated client is "
            "disconnected; 0 for never, because mounts are idle for days."
        ),
    )
    max_handles: int = Field(
        16_384,
        ge=16,
        le=65_536,
        description=(
            "Files and folders that one connection may have open at once, on all its channels "
            "together. Users and connections share the worker's limit, so it may be less "
            "([limits](limits.md#files-that-are-open))."
        ),
    )
    drain_timeout: Seconds = Field(
        10.0,
        ge=0,
        le=3600,
        description=(
            "Seconds that sessions get to finish the files they are reading when the gateway stops."
        ),
    )

    def set_by(self, origins: Origins) -> Self:
        """Record where the options were set."""
        self._origins = origins
        return self

    @property
    def origins(self) -> Origins:
        """Where the options were set."""
        return self._origins

    @property
    def metrics_are_local(self) -> bool:
        """Whether only this machine can reach the metrics and the status page."""
        try:
            return ip_address(self.metrics_host).is_loopback
        except ValueError:
            return self.metrics_host == "localhost"

    @property
    def metrics_names(self) -> frozenset[str]:
        """Host names accepted in requests for metrics, in lower case; * accepts any."""
        own = (self.metrics_host, self.public_host, platform.node())
        return frozenset(name.lower() for name in (*own, *self.metrics_allowed_hosts))

    @model_validator(mode="after")
    def _known_shares(self) -> Self:
        for name, user in self.users.items():
            for share in () if user.shares == "*" else user.shares:
                if share not in self.shares:
                    close = get_close_matches(share, self.shares, n=1)
                    raise ValueError(
                        f"users.{name}.shares: there is no share {share}; "
                        + (
                            f"did you mean {close[0]}?"
                            if close
                            else f"there are {', '.join(sorted(self.shares))}"
                        )
                    )
        return self
