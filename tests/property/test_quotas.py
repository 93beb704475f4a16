"""Whatever some users open and close, others can open files and descriptors suffice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from sftp_gateway.errors import TooManyHandles
from sftp_gateway.server.limits.quotas import Cost, DescriptorAllotment, HandleOwner, Quotas, divide

CONNECTIONS = 5
HOLDERS = [
    HandleOwner(user, f"{user}{n}") for user, count in (("a", 2), ("b", 2)) for n in range(count)
]
VICTIM = HandleOwner("victim", "victim")

COSTS = st.sampled_from((Cost(1, 1), Cost(1, 50), Cost(2, 100)))
#: Acquire this many times, or release the newest this many.
STEPS = st.lists(
    st.tuples(st.sampled_from(HOLDERS), st.booleans(), st.integers(1, 300), COSTS), max_size=40
)


@given(st.integers(20, 2000), st.integers(CONNECTIONS * 300, 100_000), STEPS)
def test_every_connection_can_always_open_a_file(
    descriptors: int, memory: int, steps: list[tuple[HandleOwner, bool, int, Cost]]
) -> None:
    division = divide(2 * descriptors, connections=CONNECTIONS, temporary=descriptors)
    quotas = Quotas(division, max_handles=10**6, memory=memory)
    held: dict[HandleOwner, list[tuple[Cost, Callable[[], None]]]] = {each: [] for each in HOLDERS}
    for who, take, times, cost in steps:
        for _ in range(times):
            if not take and held[who]:
                held[who].pop()[1]()
            elif take:
                try:
                    held[who].append((cost, quotas.acquire(who, cost)))
                except TooManyHandles:
                    break
        costs = [cost for handles in held.values() for cost, _ in handles]
        assert sum(cost.descriptors for cost in costs) <= division.handles
        assert sum(cost.memory for cost in costs) <= memory
        quotas.acquire(VICTIM, Cost(1, 100))()


@given(st.integers(100, 10_000), st.permutations(HOLDERS))
def test_a_connection_gets_its_share_after_four_greedy_ones(
    handles: int, order: list[HandleOwner]
) -> None:
    quotas = Quotas(DescriptorAllotment(CONNECTIONS, handles), max_handles=10**6)
    got: Counter[HandleOwner] = Counter()
    for who in (*order, VICTIM):
        for _ in range(handles):
            try:
                quotas.acquire(who, Cost(1, 1))
            except TooManyHandles:
                break
            got[who] += 1
    assert min(got.values()) >= handles // 3 // CONNECTIONS
    assert sum(got.values()) <= handles
