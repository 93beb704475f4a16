"""Mounts read correct bytes across rekeying, with every cipher, on little data.

scripts/endurance does the same over gigabytes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.endurance import CONDITIONS, MIB, Condition, count_rekeys, endure, make_pattern
from benchmarks.pattern import Pattern

pytestmark = pytest.mark.integration

_SIZE = 64 * MIB
_REKEY_BYTES = 4 * MIB


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("endurance") / "data"


@pytest.fixture(scope="module")
def pattern(data: Path) -> Pattern:
    return make_pattern(data)


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda each: each.name)
def test_random_reads_through_a_mount_are_correct(
    condition: Condition, pattern: Pattern, data: Path, tmp_path: Path
) -> None:
    outcome = endure(
        condition,
        pattern=pattern,
        data=data,
        folder=tmp_path / "bed",
        size=_SIZE // 4 if condition.compression else _SIZE,
        rekey_bytes=MIB if condition.compression else _REKEY_BYTES,
    )
    assert outcome.problems == []
    assert outcome.verified >= _SIZE // 4


def test_a_wrong_byte_is_detected(tmp_path: Path) -> None:
    data = tmp_path / "data"
    pattern = make_pattern(data)
    for name in pattern.names:
        with open(data / name, "r+b") as file:
            for offset in range(0, pattern.size, MIB):
                file.seek(offset + 4321)
                file.write(b"\xff")
    outcome = endure(
        CONDITIONS[0],
        pattern=pattern,
        data=data,
        folder=tmp_path / "bed",
        size=_SIZE,
        rekey_bytes=_REKEY_BYTES,
    )
    assert any("they differ" in problem for problem in outcome.problems)


def test_rekeys_are_counted_by_initiator() -> None:
    exchange = "debug1: SSH2_MSG_KEXINIT {}\ndebug1: SSH2_MSG_KEXINIT {}\n"
    new_keys = "debug1: SSH2_MSG_NEWKEYS sent\ndebug1: SSH2_MSG_NEWKEYS received\n"
    by_client = exchange.format("sent", "received")
    by_server = exchange.format("received", "sent")
    connection = "debug1: Local version string SSH-2.0-OpenSSH\n" + by_client + new_keys
    assert count_rekeys(connection) == (0, 0)
    assert count_rekeys(connection + by_client) == (0, 0)
    assert count_rekeys(connection + by_client + new_keys + connection) == (1, 0)
    assert count_rekeys(connection + (by_server + new_keys) * 2 + by_client + new_keys) == (1, 2)
