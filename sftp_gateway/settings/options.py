"""The options outside all tables, and which tables there are: `Settings`."""

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
    """The users and shares that are there unless they are switched off by name."""
    return {"users": default_users(), "shares": default_shares()}


class Settings(Table):
    """All options, tables too; relative paths start at the working directory."""

    _origins: Origins = PrivateAttr(default_factory=Origins)

    host: str = Field("", description="The address to listen on; empty means all of them.")
    port: Port = Field(2222, description="The port of the SSH server; 0 picks a free one.")
    public_host: str = Field(
        "localhost",
        description="This machine's name as workers know it, for the mount line that is printed.",
    )
    public_port: Port | None = Field(
        None,
        description="The port that workers use, where it is another one (a published port).",
    )
    keys_dir: Path = Field(
        Path("keys"),
        description=(
            "The folder of the host key (ssh_host_ed25519_key, and ssh_host_rsa_key if there is "
            "one), of authorized_keys/, which holds one file for each user, and of user_ca_keys "
            "and revoked_keys, if there are any."
        ),
    )
    auto_setup: bool = Field(
        True,
        description=(
            "Make a missing host key, a worker's key pair and missing folders of the default "
            "shares at the start."
        ),
    )
    auto_reload: bool = Field(
        True,
        description=(
            "Take changes of the configuration file, of keys and of password hash files by itself, "
            "within a few seconds. Without it, SIGHUP is what asks for them."
        ),
    )
    end_sessions_of_removed_keys: bool = Field(
        True,
        description=(
            "When a key, a certificate's authority, a password or a user is taken away, or a key "
            "or certificate is revoked, end the sessions that logged in with it. A key or "
            "certificate that just expires ends none."
        ),
    )
    defaults: bool = Field(
        True,
        description=(
            "Keep the default user and the default shares beside those that the configuration "
            "names. With `false` only the latter are served."
        ),
    )
    users: dict[UserName, UserSettings] = Field(
        default_factory=default_users,
        description="The users that may log in, beside the default one.",
    )
    shares: dict[ShareName, ShareSettings] = Field(
        default_factory=default_shares,
        description="The exported folders, beside the default ones.",
    )
    show_uid: int | None = Field(
        None,
        ge=0,
        le=0xFFFFFFFF,
        description="Show this owner for everything, instead of the real ones.",
    )
    show_gid: int | None = Field(
        None,
        ge=0,
        le=0xFFFFFFFF,
        description="Show this group for everything, instead of the real ones.",
    )
    show_mode: Literal["real", "read-only"] = Field(
        "real",
        description=(
            "The permission bits that are shown, which copies get. `real`: those of the file, so "
            "that a copy can be changed by its owner. `read-only`: the same without `w`. Either "
            "way, what the gateway can read is shown as readable for all, because it reads for "
            "all; and nothing can be written."
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
            "The address of the metrics, health and status endpoint. Metrics and health ask for "
            "no password: let only your monitoring reach it. The status page asks for a token "
            "where this is not 127.0.0.1 or ::1."
        ),
    )
    metrics_port: Port = Field(
        9222, description="The port of metrics, health and status page; 0 picks a free one."
    )
    metrics_allowed_hosts: tuple[str, ...] = Field(
        (),
        description=(
            "Names under which metrics may be asked for, beside addresses, names without a dot, "
            "`metrics_host`, `public_host` and the machine's own name; `*` is any. Under other "
            "names a web page could read them through a browser (DNS rebinding)."
        ),
    )
    ciphers: Literal["fast", "compatible"] | CipherNames = Field(
        "fast",
        description=(
            "`fast` offers AES-GCM, where the processor has AES instructions, because stock "
            "clients would choose the slower chacha20-poly1305 if they could; only a client that "
            "does not know AES-GCM (paramiko before 3.5, libssh2 before 1.11) is offered AES-CTR "
            "too, by what its version string and key exchange show. `compatible` offers "
            "AES-GCM, chacha20-poly1305, AES-CTR and plain HMACs to all, so that each client's "
            "own order decides; a list of names offers these to all and nothing else."
        ),
    )
    nist_curves: bool = Field(
        False,
        description=(
            "Let ECDSA keys count, which are on the NIST curves: those of users (also in security "
            "keys) and ssh_host_ecdsa_key. Without it they are left out, with a warning for each."
        ),
    )
    rekey_limit: Bytes = Field(
        _GIB,
        ge=1024 * 1024,
        le=64 * _GIB,  # RFC 4344 §3.2: no more than 2**32 blocks of 16 bytes with one key
        description=(
            "Bytes sent to a client after which the gateway asks for new keys. What it receives "
            "does not count: requests are small, and clients have limits of their own. New keys "
            "also come once an hour."
        ),
    )
    record_layer: Literal["own", "asyncssh"] = Field(
        "own",
        description=(
            "Who seals and opens SSH packets: the gateway itself, or asyncssh, which is slower. "
            "The gateway leaves them to asyncssh by itself where it does not know the installed "
            "version; this is for finding out whether a fault is in the gateway's own way."
        ),
    )
    landlock: Literal["auto", "require", "off"] = Field(
        "auto",
        description=(
            "Whether the kernel confines the processes too (Landlock), so that not even a fault in "
            "the gateway reads anything but the shares, changes a file, executes a program or "
            "makes a TCP connection. `auto` does as much as the kernel can and warns where that "
            "is not all; `require` does not start where files cannot be confined; `off` leaves "
            "it. docs/security.md has what it means."
        ),
    )
    login_grace_time: Seconds = Field(
        30.0, gt=0, le=3600, description="Seconds in which a client must have logged in."
    )
    max_auth_tries: int = Field(
        6, ge=1, le=100, description="Refused login attempts after which a connection is closed."
    )
    keepalive_interval: Seconds = Field(
        15.0, gt=0, le=3600, description="Seconds of silence after which a client is asked."
    )
    keepalive_count_max: int = Field(
        2,
        ge=1,
        le=100,
        description=(
            "Unanswered questions after which a client is given up, one `keepalive_interval` after "
            "the last of them."
        ),
    )
    workers: Workers = Field(
        "auto",
        description=(
            "Processes that serve clients. `auto` takes one for each processor that the gateway "
            "may use (its CPU set and its container's CPU limit), at most 8. A client is served "
            "by one of them, and sshfs with `max_conns=N` by several."
        ),
    )
    max_connections: int = Field(
        2000,
        ge=1,
        le=1_000_000,
        description=(
            "Connections that may be open at once, over all workers and logged in or not. "
            "Further ones are closed at once."
        ),
    )
    disk_timeout: Seconds = Field(
        60.0,
        gt=0,
        le=86_400,
        description=(
            "Seconds that a request may wait for a share's disk, and for others that wait for it "
            "too. Then it fails, and what the disk says later is thrown away. A read that fails "
            "ends its session (`read_errors` of the share); mounts need `reconnect` to come back. "
            "The default is longer than a disk takes to spin up, or Linux to give up a SCSI "
            "command and try again (30 s); a share on NFS whose server fails over may need more."
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
            "`start:rate:full`: once `start` connections are open that have not logged in, `rate` "
            "of 100 further ones are refused at random, the more the more there are, and from "
            "`full` on all (as MaxStartups of sshd)."
        ),
    )
    max_startups_per_source: int = Field(
        750,
        ge=1,
        le=1_000_000,
        description="Connections of one source that may be open and not logged in.",
    )
    max_sessions_per_user: int = Field(
        2000,
        ge=1,
        le=1_000_000,
        description="Connections that one user may have at once, over all workers.",
    )
    source_ipv4_prefix: int = Field(
        32, ge=0, le=32, description="Bits of an IPv4 address that make one source."
    )
    source_ipv6_prefix: int = Field(
        64,
        ge=0,
        le=128,
        description=(
            "Bits of an IPv6 address that make one source: who has one address has its /64."
        ),
    )
    allow_from: tuple[NetworkText, ...] = Field(
        (),
        description=(
            "Addresses and networks that may connect; others are refused before anything is "
            "said. Empty means all."
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
            "Seconds without an SFTP request after which a client that is logged in is "
            "disconnected; 0 for never, since mounts are idle for days."
        ),
    )
    max_handles: int = Field(
        16_384,
        ge=16,
        le=65_536,
        description=(
            "Files and folders that one connection may have open at once, on all its channels "
            "together. Users and connections share what a worker may open, so that it can be less "
            "([limits](limits.md#files-that-are-open))."
        ),
    )
    drain_timeout: Seconds = Field(
        10.0,
        ge=0,
        le=3600,
        description=(
            "Seconds that a stopping gateway gives sessions to finish the files they are reading."
        ),
    )

    def set_by(self, origins: Origins) -> Self:
        """These settings, which know where they were set."""
        self._origins = origins
        return self

    @property
    def origins(self) -> Origins:
        """Where the options were set."""
        return self._origins

    @property
    def metrics_are_local(self) -> bool:
        """Whether only this machine itself can reach metrics and status page."""
        try:
            return ip_address(self.metrics_host).is_loopback
        except ValueError:
            return self.metrics_host == "localhost"

    @property
    def metrics_names(self) -> frozenset[str]:
        """The names under which metrics may be asked for, in lower case; * is any."""
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
