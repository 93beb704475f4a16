"""What all connections of one SSH server share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol

from sftp_gateway.auth.authenticator import Authenticator
from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.observability.metrics.process_metrics import Metrics
from sftp_gateway.server.exec.session import CommandSession
from sftp_gateway.server.io_pools import lower_priority
from sftp_gateway.server.limits.budget import BufferBudget
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp.context import Channel
from sftp_gateway.server.sftp.session import SftpSession
from sftp_gateway.server.ssh.negotiation import Offers

#: Threads that verify passwords. Each verification takes 50 ms of a core and tens of MiB.
_PASSWORD_THREADS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The limits of a connection, as the settings of the same names."""

    login_grace_time: float
    max_auth_tries: int
    keepalive_interval: float
    keepalive_count_max: int
    rekey_limit: int
    idle_timeout: float = 0.0  # 0: never


class SessionFactory(Protocol):
    """Makes the sessions of users who have logged in."""

    def open_sftp(self, channel: Channel, recorder: Recorder) -> SftpSession:
        """An SFTP session on `channel`."""
        ...

    def open_command(self, channel: Channel, recorder: Recorder) -> CommandSession:
        """The session of a command on `channel`."""
        ...


@dataclass(slots=True, kw_only=True)
class ServerContext:
    """What connections need of their server. A reload replaces the credentials."""

    limits: ConnectionLimits
    offers: Offers
    signatures: Sequence[str]
    own_packet_layer: bool
    access_log: AccessLog
    metrics: Metrics
    sessions: SessionFactory
    authenticator: Authenticator
    #: Whether a reload ends the sessions whose logins it would refuse.
    end_sessions: bool
    stopping: bool = False
    budget: BufferBudget = field(default_factory=BufferBudget)
    #: Set when the access log has room again.
    log_room: asyncio.Event = field(default_factory=asyncio.Event)
    password_threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(
            _PASSWORD_THREADS, "password", initializer=lower_priority
        )
    )

    async def wait_for_log(self, user: str | None) -> None:
        """Wait until the access log has room for events of `user`; None before the login."""
        while self.access_log.congested(user):
            self.log_room.clear()
            await self.log_room.wait()
