"""Quotas of connections and users for a worker's descriptors and memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sftp_gateway.errors import TooManyHandles
from sftp_gateway.server.limits.quotas import (
    Cost,
    DescriptorAllotment,
    HandleOwner,
    Quotas,
    cost_of_file,
    cost_of_folder,
    divide,
)

ONE = Cost(1, 1)


def owner(connection: str, user: str = "worker") -> HandleOwner:
    return HandleOwner(user, connection)


def fill(quotas: Quotas, who: HandleOwner, cost: Cost = ONE) -> list[Callable[[], None]]:
    """Acquire until refused; returns the releases."""
    taken = []
    while True:
        try:
            taken.append(quotas.acquire(who, cost))
        except TooManyHandles:
            return taken


def make(handles: int, connections: int, **options: int) -> Quotas:
    return Quotas(DescriptorAllotment(connections, handles), **{"max_handles": 10**9, **options})


# Division of descriptors


@pytest.mark.parametrize("limit", [8, 64, 256, 1024, 4096, 20_000, 524_288, 1 << 30])
@pytest.mark.parametrize("temporary", [3, 100, 10_000])
def test_the_division_is_within_the_limit(limit: int, temporary: int) -> None:
    division = divide(limit, connections=2000, temporary=temporary)
    assert division.connections + division.handles + min(temporary, limit // 2) <= limit
    assert division.handles >= 2 * division.connections
    assert 0 < division.connections <= 2000


def test_all_connections_fit_if_descriptors_suffice() -> None:
    assert divide(20_000, connections=2000, temporary=100).connections == 2000
    assert divide(1000, connections=2000, temporary=100).connections == 286


# Sharing


def test_a_connection_has_at_most_max_handles_on_all_its_channels() -> None:
    quotas = make(1000, 10, max_handles=16)
    assert len(fill(quotas, owner("a"))) == 16
    with pytest.raises(TooManyHandles) as refused:
        quotas.acquire(owner("a"), ONE)
    assert (refused.value.reason, refused.value.used, refused.value.limit) == (
        "too_many_handles",
        16,
        16,
    )
    assert len(fill(quotas, owner("b"))) == 16


def test_the_only_connection_gets_its_guarantee_and_nine_sixteenths() -> None:
    quotas = make(3000, 10)
    assert len(fill(quotas, owner("a"))) == quotas.max_files == 100 + 2000 * 9 // 16


def test_a_greedy_user_leaves_a_quarter_of_the_shared_part() -> None:
    quotas = make(3000, 100)
    for number in range(99):
        fill(quotas, owner(f"{number}", "greedy"))
    assert len(fill(quotas, owner("99", "other"))) >= 10 + 2000 // 4 * 9 // 16


def test_the_guarantee_holds_against_all_others() -> None:
    quotas = make(3000, 100)
    for number in range(99):
        fill(quotas, owner(f"{number}", f"user{number}"))
    assert len(fill(quotas, owner("last", "last"))) >= 10


def test_released_handles_can_be_acquired_again() -> None:
    quotas = make(300, 10)
    taken = fill(quotas, owner("a"))
    for _ in range(3):
        for give_back in taken:
            give_back()
        assert quotas.max_files == len(taken)
        taken = fill(quotas, owner("a"))
        assert quotas.max_files == len(taken)


def test_open_folders_cost_bounded_memory() -> None:
    quotas = make(10**6, 10, memory=10**7)
    taken = fill(quotas, owner("a"), cost_of_folder(b"/"))
    assert 50 <= len(taken) <= 10**7 // (32 * 1024)
    with pytest.raises(TooManyHandles, match="memory_quota"):
        quotas.acquire(owner("a"), cost_of_folder(b"/"))


def test_long_paths_cost_memory() -> None:
    quotas = make(10**6, 10, memory=10**7)
    assert len(fill(quotas, owner("a"), cost_of_file(b"x" * 4000))) <= 10**7 // 4000


def test_unclosed_files_of_lost_connections_use_quota() -> None:
    quotas = make(300, 10)
    opened = sum(len(fill(quotas, owner(f"{number}"))) for number in range(100))
    assert opened <= 300
