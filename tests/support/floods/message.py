"""A message to flood a server with, and the connection that carries it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.raw_ssh import RawSsh
from tests.support.sftp_wire import uint32

NO, YES = b"\0", b"\1"


@dataclass(frozen=True, slots=True)
class Login:
    """Where and as whom the attacker connects; `password_user` has a password."""

    port: int
    private: Path
    user: str = "attacker"
    password_user: str = "password_user"


@dataclass(slots=True)
class Reached:
    """A connection in its phase, and what the attacker knows about it."""

    client: RawSsh
    login: Login
    channels: list[int] = field(default_factory=lambda: [0])
    #: The same in every channel.
    file: bytes = bytes(4)
    folder: bytes = bytes(4)
    next_handle: int = 0
    next_channel: int = 0

    def channel(self, number: int) -> bytes:
        """The channel for the `number`th packet."""
        return uint32(self.channels[number % len(self.channels)])


#: The payloads of the message's nth turn, of which several make sense only together.
Payloads = Callable[[Reached, int], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Message:
    """A row. `within_window`: what it sends as channel data keeps to the server's window.

    `exchange` instead of `payloads` waits for the server each time.
    """

    family: str
    name: str
    payloads: Payloads | None = None
    within_window: bool = False
    exchange: Callable[[RawSsh], None] | None = None
