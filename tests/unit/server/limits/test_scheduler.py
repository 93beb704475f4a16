"""Time slices of connections, with a manual clock and loop."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from sftp_gateway.server.limits.scheduler import SHORT_SLICE, SLICE, TURN, Scheduler, TimeSlice


class Loop:
    """A loop that is turned manually, with a clock advanced by work."""

    def __init__(self) -> None:
        self.now = 100.0
        self._soon: deque[Callable[[], None]] = deque()

    def call_soon(self, callback: Callable[[], None]) -> object:
        self._soon.append(callback)
        return callback

    def turn(self) -> None:
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    @property
    def idle(self) -> bool:
        return not self._soon


class Busy:
    """A connection with `left` packets, of `cost` seconds each."""

    def __init__(self, loop: Loop, scheduler: Scheduler, *, left: int, cost: float) -> None:
        self._loop = loop
        self.left, self.cost = left, cost
        self.time_slice = TimeSlice(scheduler, self.work)
        self.done = 0

    def receive(self) -> None:
        """Called by the loop when the socket is readable."""
        if self.time_slice.begin():
            self.work()
            self.time_slice.end()

    def work(self) -> None:
        while self.left and not self.time_slice.used_up():
            self._loop.now += self.cost
            self.left -= 1
            self.done += 1
        if self.left:
            self.time_slice.wait()


def made(*packets: tuple[int, float]) -> tuple[Loop, list[Busy]]:
    loop = Loop()
    scheduler = Scheduler(loop, clock=lambda: loop.now)
    return loop, [Busy(loop, scheduler, left=left, cost=cost) for left, cost in packets]


def test_little_work_is_done_at_once() -> None:
    loop, [light] = made((3, SLICE / 10))
    light.receive()
    assert light.left == 0
    assert loop.idle


def test_a_flood_is_handled_a_slice_at_a_time() -> None:
    loop, [flood] = made((1000, SLICE / 10))
    flood.receive()
    assert flood.done == 10
    loop.turn()
    assert flood.done == 20


def test_input_of_a_waiting_connection_begins_no_slice() -> None:
    _, [flood] = made((1000, SLICE / 10))
    flood.receive()
    flood.receive()
    assert flood.done == 10


def test_a_slice_within_a_slice_is_the_same() -> None:
    _, [light] = made((1, SLICE))
    assert light.time_slice.begin()
    assert not light.time_slice.begin()
    light.time_slice.end()
    assert light.time_slice.begin()


def test_a_slice_is_shortened_once_and_the_next_is_a_whole_one() -> None:
    loop, [flood] = made((1000, SLICE / 50))
    flood.time_slice.shorten()  # none has begun
    for shortened, length in ((True, SHORT_SLICE), (False, SLICE)):
        assert flood.time_slice.begin()
        if shortened:
            flood.time_slice.shorten()
            flood.time_slice.shorten()
        began = loop.now
        while not flood.time_slice.used_up():
            loop.now += SLICE / 50
        assert length <= loop.now - began + 1e-9 <= length + SLICE / 49
        flood.time_slice.end()


def test_outside_of_a_slice_the_time_is_used_up() -> None:
    _, [light] = made((1, SLICE))
    assert light.time_slice.used_up()


@given(floods=st.integers(1, 200), cost=st.floats(1e-6, SLICE))
def test_a_turn_is_bounded_for_any_number_of_connections(floods: int, cost: float) -> None:
    loop, busy = made(*[(10_000, cost)] * floods)
    for each in busy:
        each.receive()
    before = loop.now
    loop.turn()
    assert loop.now - before <= TURN + SLICE + 2 * cost


def test_busy_connections_get_equal_time() -> None:
    loop, busy = made((100_000, SLICE / 100), (10_000, SLICE / 10), (10_000, SLICE / 4))
    for each in busy:
        each.receive()
    for _ in range(300):
        loop.turn()
    times = [each.done * each.cost for each in busy]
    assert max(times) <= 1.3 * min(times)  # a slice may exceed its time by one packet


def test_an_error_of_one_does_not_stop_the_others() -> None:
    loop, [broken, other] = made((10_000, SLICE / 10), (20, SLICE / 10))
    for each in (broken, other):
        each.receive()

    def fail() -> None:
        raise RuntimeError("a bug")

    broken.time_slice._resume = fail
    seen = Counter[str]()
    while other.left and not loop.idle:
        try:
            loop.turn()
        except RuntimeError:
            seen["failed"] += 1
    assert seen["failed"] == 1
    assert other.left == 0
