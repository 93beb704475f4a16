"""The kinds of floods: each message in each phase, well-formed and malformed.

They are the product of tables, so that a new message, or a new phase, is one row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tests.support import raw_ssh as ssh
from tests.support.floods.message import Message, Reached
from tests.support.floods.messages import MANY_SIGNATURES, MESSAGES
from tests.support.floods.phases import PHASES, Phase
from tests.support.sftp_wire import string

#: Ways to corrupt a message after its number.
MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "number only": lambda contents: b"",
    "truncated": lambda contents: contents[: len(contents) // 2],
    "with 1,000 trailing bytes": lambda contents: contents + bytes(1000),
    "with an excessive length": lambda contents: b"\xff" * 4 + contents[4:],
    "zeroed": lambda contents: bytes(len(contents)),
}


#: Messages that begin with a recipient channel, which stays valid.
_TO_A_CHANNEL = range(ssh.MSG_CHANNEL_OPEN_CONFIRMATION, ssh.MSG_CHANNEL_FAILURE + 1)


def malformed(message: Message, how: str) -> Message:
    """`message` with each payload corrupted; for SFTP, each request."""
    corrupt, whole = MALFORMED[how], message.payloads
    assert whole is not None

    def corrupted(payload: bytes) -> bytes:
        if message.within_window:  # CHANNEL_DATA of SFTP: recipient, length, then its packet
            to_channel, packet = payload[:5], payload[9:]
            return to_channel + string(string(packet[4:5] + corrupt(packet[5:])))
        head = 5 if payload[0] in _TO_A_CHANNEL else 1
        return payload[:head] + corrupt(payload[head:])

    def payloads(reached: Reached, turn: int) -> Sequence[bytes]:
        return [corrupted(payload) for payload in whole(reached, turn)]

    return replace(message, name=f"{message.name}, {how}", payloads=payloads)


_PHASES = {phase.name: phase for phase in PHASES}
_MESSAGES = {(message.family, message.name): message for message in MESSAGES}


@dataclass(frozen=True, slots=True)
class Kind:
    """One flood, by names that another process can look up; `how` it is malformed, if at all."""

    phase: str
    family: str
    name: str
    how: str | None = None

    def __str__(self) -> str:
        return f"{self.phase}: {self.family}: {self.name}" + (f", {self.how}" if self.how else "")

    @property
    def reached_in(self) -> Phase:
        return _PHASES[self.phase]

    @property
    def message(self) -> Message:
        message = _MESSAGES[self.family, self.name]
        return malformed(message, self.how) if self.how else message


def kinds() -> Iterator[Kind]:
    """All kinds."""
    for phase, message in itertools.product(PHASES, MESSAGES):
        if _can_be_sent(message, phase):
            for how in (None, *MALFORMED) if message.payloads else (None,):
                yield Kind(phase.name, message.family, message.name, how)


def _can_be_sent(message: Message, phase: Phase) -> bool:
    return message.exchange is None or phase.exchanges


#: The phase in which the short form sends each message of a family, intact and malformed.
_HOME_PHASES = {
    "transport": "before login",
    "key exchange": "before login",
    "userauth": "before login",
    "SFTP": "compressed",
}
_DEFAULT_HOME = "with channels"

#: In other phases, the short form sends one of this many messages.
_SPARSE = 10

#: Floods that once froze a worker or filled its memory. The short form sends all of them, at full
#: length.
KNOWN_FREEZES = frozenset(
    {
        Kind("before login", "transport", "IGNORE"),
        Kind("with channels", "global requests", "tcpip-forward, reply wanted"),
        Kind("with channels", "channel opens", "direct-tcpip"),
        Kind("with channels", "SFTP, packed", "LSTAT"),
        Kind("in a key exchange", "channel opens", "direct-tcpip"),
        Kind("compressed", "global requests", MANY_SIGNATURES),
        Kind("with one-byte packets", "SFTP", "READ of 256 KiB"),
    }
)


def short_kinds() -> Iterator[Kind]:
    """A selection with each message, each phase and each kind of corruption."""
    ways = itertools.cycle(MALFORMED)
    for number, message in enumerate(MESSAGES):
        home = _HOME_PHASES.get(message.family, _DEFAULT_HOME)
        for turn, phase in enumerate(PHASES):
            kind = Kind(phase.name, message.family, message.name)
            if phase.name == home:
                yield kind
                if message.payloads:
                    yield replace(kind, how=next(ways))
            elif (kind in KNOWN_FREEZES or (number + turn) % _SPARSE == 0) and _can_be_sent(
                message, phase
            ):
                yield kind
