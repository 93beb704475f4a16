"""One owner's items never displace another's."""

from hypothesis import given
from hypothesis import strategies as st

from sftp_gateway.observability.access_log.fair_queue import FairQueue


def test_items_are_taken_in_order() -> None:
    queue = FairQueue[int](10)
    for number in range(6):
        assert queue.put(number, owner="ab"[number % 2], minor=number % 3 == 0) == []
    assert (queue.take(2), queue.take(10), queue.take(1)) == ([0, 1], [2, 3, 4, 5], [])
    assert queue.size == 0


def test_a_full_queue_drops_the_newest_item_of_the_largest_owner() -> None:
    queue = FairQueue[str](4)
    for name in ("a1", "a2", "a3", "b1"):
        queue.put(name, owner=name[0])
    assert queue.put("b2", owner="b") == ["a3"]
    assert queue.put("a4", owner="a") == ["a4"]
    assert queue.take(9) == ["a1", "a2", "b1", "b2"]


def test_minor_items_are_dropped_first() -> None:
    queue = FairQueue[str](3)
    queue.put("minor1", owner="a", minor=True)
    queue.put("minor2", owner="a", minor=True)
    queue.put("major1", owner="a")
    assert queue.put("major2", owner="a") == ["minor2"]
    assert queue.put("b", owner="b") == ["minor1"]
    assert queue.put("minor3", owner="a", minor=True) == ["minor3"]
    assert queue.take(9) == ["major1", "major2", "b"]


def test_the_bound_is_a_total_size() -> None:
    queue = FairQueue[str](10)
    queue.put("small", owner="a", size=4)
    queue.put("large", owner="b", size=6)
    assert queue.put("none", owner="c", size=11) == ["large", "small", "none"]
    assert (queue.size, queue.size_of("a")) == (0, 0)


def test_an_item_added_always_drops_nothing() -> None:
    queue = FairQueue[int](1)
    for number in range(3):
        assert queue.put(number, owner="a", always=True) == []
    assert queue.take(9) == [0, 1, 2]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=200))
def test_no_owner_within_its_share_loses_an_item(
    steps: list[tuple[str, bool, bool]],
) -> None:
    queue = FairQueue[tuple[str, int]](9)
    expected: dict[str, int] = dict.fromkeys("abc", 0)
    for number, (owner, minor, take) in enumerate(steps):
        if take:
            for name, _ in queue.take(1):
                expected[name] -= 1
            continue
        before = {name: queue.size_of(name) for name in "abc"}
        dropped = queue.put((owner, number), owner=owner, minor=minor)
        expected[owner] += 1
        for name, _ in dropped:
            expected[name] -= 1
            assert before[name] >= 3
        assert queue.size <= 9
        assert {name: queue.size_of(name) for name in "abc"} == expected
