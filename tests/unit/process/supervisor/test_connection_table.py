"""Who is connected, and to whom the next connection goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftp_gateway.process.supervisor.connection_table import Admission


@pytest.fixture
def admission() -> Admission:
    return Admission()


def let_in(admission: Admission, workers: list[int], source: str = "192.0.2.1") -> tuple[int, int]:
    """The worker that gets the next connection, and its number."""
    worker = admission.in_turn(workers)[0]
    return worker, admission.enter(worker, source)


@pytest.mark.parametrize(("count", "workers"), [(8, 2), (16, 4), (64, 3)])
def test_connections_are_spread_evenly(admission: Admission, count: int, workers: int) -> None:
    for _ in range(count):
        let_in(admission, list(range(workers)))
    spread = [admission.of_worker(worker) for worker in range(workers)]
    assert sum(spread) == admission.total == count
    assert max(spread) - min(spread) <= 1


def test_the_worker_with_the_fewest_is_next(admission: Admission) -> None:
    taken = [let_in(admission, [0, 1]) for _ in range(4)]
    for worker, number in taken:
        if worker == 1:
            admission.leave(number, worker)
    assert [let_in(admission, [0, 1])[0] for _ in range(2)] == [1, 1]


def test_short_connections_go_round(admission: Admission) -> None:
    served = []
    for _ in range(6):
        worker, number = let_in(admission, [0, 1, 2])
        served.append(worker)
        admission.leave(number, worker)
    assert served == [0, 1, 2, 0, 1, 2]


def test_a_worker_that_ends_takes_its_connections_with_it(admission: Admission) -> None:
    taken = [let_in(admission, [0, 1]) for _ in range(5)]
    assert len(admission.worker_ended(0)) == 3
    assert admission.total == 2
    for worker, number in taken:  # those of the ended worker are known no more
        admission.leave(number, worker)
    assert admission.total == admission.of_worker(0) == admission.of_worker(1) == 0
    assert admission.busiest() == (None, 0)


def test_a_worker_cannot_end_what_is_not_its_own(admission: Admission) -> None:
    number = admission.enter(0, "192.0.2.1")
    admission.leave(number, 1)
    admission.leave(number + 1, 0)
    assert admission.total == admission.of_worker(0) == 1


def test_the_busiest_source_is_known(admission: Admission) -> None:
    for source in ("192.0.2.1", "192.0.2.2", "192.0.2.2"):
        let_in(admission, [0], source)
    assert admission.busiest() == ("192.0.2.2", 2)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"]), st.booleans())))
def test_totals_are_those_of_what_is_open(steps: list[tuple[int, str, bool]]) -> None:
    admission = Admission()
    model: dict[int, tuple[int, str]] = {}
    for worker, source, ends in steps:
        if ends and model:
            number = next(iter(model))
            admission.leave(number, model.pop(number)[0])
        elif ends:
            admission.worker_ended(worker)
        else:
            model[admission.enter(worker, source)] = worker, source
        assert admission.total == len(model)
        for each in range(4):
            assert admission.of_worker(each) == sum(w == each for w, _ in model.values())
        most = max((sum(s == name for _, s in model.values()) for name in "ab"), default=0)
        assert admission.busiest()[1] == most
