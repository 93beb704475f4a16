"""Random early drop of unauthenticated connections."""

from __future__ import annotations

import pytest

from sftp_gateway.process.supervisor.early_drop import RandomEarlyDrop


@pytest.mark.parametrize(
    ("unauthenticated", "part"),
    # sshd_config(5), MaxStartups 10:30:60: "refuse connection attempts with a probability of
    # rate/100 (30%) if there are currently start (10) unauthenticated connections. The
    # probability increases linearly and all connection attempts are refused if the number of
    # unauthenticated connections reaches full (60)."
    [(0, 0), (9, 0), (10, 30), (35, 65), (59, 98.6), (60, 100), (1000, 100)],
)
def test_the_drop_probability_grows_linearly(unauthenticated: int, part: float) -> None:
    early_drop = RandomEarlyDrop.parse("10:30:60")
    refused = sum(early_drop.drops(unauthenticated, lambda n=n: n / 1000) for n in range(1000))
    assert refused == part * 10


def test_a_single_number_is_a_hard_limit() -> None:
    early_drop = RandomEarlyDrop.parse("5")
    assert not early_drop.drops(4, lambda: 0.0)
    assert early_drop.drops(5, lambda: 0.999)


def test_start_and_full_may_be_equal() -> None:
    assert RandomEarlyDrop.parse("5:30:5").drops(5, lambda: 0.999)
