"""Open connections, and which worker gets the next one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftp_gateway.process.supervisor.connection_table import ConnectionTable


@pytest.fixture
def connections() -> ConnectionTable:
    return ConnectionTable()


def let_in(
    connections: ConnectionTable, workers: list[int], source: str = "192.0.2.1"
) -> tuple[int, int]:
    """Add the next connection; returns its worker and number."""
    worker = connections.least_loaded_first(workers)[0]
    return worker, connections.add(worker, source)


@pytest.mark.parametrize(("count", "workers"), [(8, 2), (16, 4), (64, 3)])
def test_connections_are_spread_evenly(
    connections: ConnectionTable, count: int, workers: int
) -> None:
    for _ in range(count):
        let_in(connections, list(range(workers)))
    spread = [connections.worker_count(worker) for worker in range(workers)]
    assert sum(spread) == connections.total == count
    assert max(spread) - min(spread) <= 1


def test_the_worker_with_fewest_connections_is_next(connections: ConnectionTable) -> None:
    taken = [let_in(connections, [0, 1]) for _ in range(4)]
    for worker, number in taken:
        if worker == 1:
            connections.remove(number, worker)
    assert [let_in(connections, [0, 1])[0] for _ in range(2)] == [1, 1]


def test_short_connections_rotate_among_workers(connections: ConnectionTable) -> None:
    served = []
    for _ in range(6):
        worker, number = let_in(connections, [0, 1, 2])
        served.append(worker)
        connections.remove(number, worker)
    assert served == [0, 1, 2, 0, 1, 2]


def test_an_ended_workers_connections_are_removed(connections: ConnectionTable) -> None:
    taken = [let_in(connections, [0, 1]) for _ in range(5)]
    assert len(connections.worker_ended(0)) == 3
    assert connections.total == 2
    for worker, number in taken:  # those of the ended worker are unknown
        connections.remove(number, worker)
    assert connections.total == connections.worker_count(0) == connections.worker_count(1) == 0
    assert connections.busiest() == (None, 0)


def test_a_worker_can_end_its_own_connections_only(connections: ConnectionTable) -> None:
    number = connections.add(0, "192.0.2.1")
    connections.remove(number, 1)
    connections.remove(number + 1, 0)
    assert connections.total == connections.worker_count(0) == 1


def test_the_busiest_source_is_known(connections: ConnectionTable) -> None:
    for source in ("192.0.2.1", "192.0.2.2", "192.0.2.2"):
        let_in(connections, [0], source)
    assert connections.busiest() == ("192.0.2.2", 2)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"]), st.booleans())))
def test_totals_count_open_connections(steps: list[tuple[int, str, bool]]) -> None:
    connections = ConnectionTable()
    model: dict[int, tuple[int, str]] = {}
    for worker, source, ends in steps:
        if ends and model:
            number = next(iter(model))
            connections.remove(number, model.pop(number)[0])
        elif ends:
            connections.worker_ended(worker)
        else:
            model[connections.add(worker, source)] = worker, source
        assert connections.total == len(model)
        for each in range(4):
            assert connections.worker_count(each) == sum(w == each for w, _ in model.values())
        most = max((sum(s == name for _, s in model.values()) for name in "ab"), default=0)
        assert connections.busiest()[1] == most
