"""Floods of every message that SSH and SFTP have, in every phase, while another user works.

This is the short form: small bursts, and not every message in every phase. `scripts/floods` runs
the long one. tests/support/floods/arena.py says what is asserted; messages.py and phases.py have
the tables.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.floods.arena import MAX_WORK_BETWEEN, Arena, flooded
from tests.support.floods.kinds import KNOWN_FREEZES, Kind, short_kinds
from tests.support.floods.message import Login, Reached
from tests.support.floods.messages import MESSAGES
from tests.support.floods.phases import Phase
from tests.support.keys import make_key

pytestmark = pytest.mark.integration

#: Work done for the attacker before a flood ends, in requests of the victim; and packets.
_WORK, _KNOWN_WORK, _PACKETS = 3 * MAX_WORK_BETWEEN, 100 * MAX_WORK_BETWEEN, 200_000

_KINDS: dict[tuple[str, str], list[Kind]] = {}
for _kind in short_kinds():
    _KINDS.setdefault((_kind.phase, _kind.family), []).append(_kind)


class _Arenas:
    """One arena per gateway configuration; a broken one is replaced."""

    def __init__(self, start: Callable[[bool], Arena]) -> None:
        self._start = start
        self.all: dict[bool, Arena] = {}

    def of(self, phase: Phase) -> Arena:
        arena = self.all.get(phase.renews_keys)
        if arena is None or arena.broken:
            arena = self.all[phase.renews_keys] = self._start(phase.renews_keys)
        return arena


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Arenas]:
    with contextlib.ExitStack() as stack:

        def start(renews_keys: bool) -> Arena:
            folder = tmp_path_factory.mktemp("floods")
            return stack.enter_context(flooded(folder, renews_keys=renews_keys))

        yield _Arenas(start)


@pytest.fixture(autouse=True)
def unharmed() -> None:
    """Checked once after all floods."""


@pytest.mark.parametrize(("phase", "family"), _KINDS, ids=map(": ".join, _KINDS))
def test_a_flood_starves_nobody_and_costs_bounded_memory(
    attacked: _Arenas, phase: str, family: str
) -> None:
    found = []
    for kind in _KINDS[phase, family]:
        work = _KNOWN_WORK if kind in KNOWN_FREEZES else _WORK
        result = attacked.of(kind.reached_in).flood_with_retries(kind, work=work, packets=_PACKETS)
        found += [f"{kind}: {complaint}" for complaint in result.complaints()]
    assert not found, "\n".join(["", *found])


def test_every_message_number_is_sent(tmp_path: Path) -> None:
    client: Any = SimpleNamespace(host_key=b"key", kexinit=lambda: b"\x14")
    reached = Reached(client, Login(0, make_key(tmp_path / "key", "ed25519")))
    ssh, sftp = set(), set()
    for message, turn in itertools.product(MESSAGES, range(100)):
        for payload in message.payloads(reached, turn) if message.payloads else ():
            ssh.add(payload[0])
            if message.within_window:
                sftp.add(payload[13])  # CHANNEL_DATA, recipient, two lengths
    assert ssh == sftp == set(range(256))


def test_floods_leave_nothing_behind(attacked: _Arenas) -> None:
    assert not [harm for arena in attacked.all.values() for harm in arena.harm()]
