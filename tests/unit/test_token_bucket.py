"""Token buckets: level, refill, and delays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sftp_gateway.token_bucket import TokenBucket


def test_a_bucket_starts_full_and_stays_at_its_capacity() -> None:
    bucket = TokenBucket(rate=10, capacity=5, now=0)
    assert bucket.level(100) == 5


def test_tokens_are_refilled_over_time() -> None:
    bucket = TokenBucket(rate=10, capacity=100, now=0)
    bucket.spend(60, 0)
    assert bucket.level(1) == 50
    assert bucket.delay(1) == 0


def test_a_debt_delays_until_it_is_repaid() -> None:
    bucket = TokenBucket(rate=10, capacity=100, now=0)
    bucket.spend(150, 0)
    assert bucket.delay(0) == 5
    assert bucket.delay(3) == 2
    assert bucket.delay(5) == 0


def test_without_debts_the_level_stops_at_zero() -> None:
    bucket = TokenBucket(rate=10, capacity=100, now=0)
    bucket.spend(150, 0, owe=False)
    assert bucket.level(0) == 0


def test_a_new_rate_applies_from_its_change() -> None:
    bucket = TokenBucket(rate=10, capacity=100, now=0)
    bucket.spend(100, 0)
    bucket.change(rate=1, capacity=20, now=5)
    assert bucket.level(5) == 20
    bucket.spend(20, 5)
    assert bucket.level(6) == 1


def test_a_clock_running_backwards_adds_no_tokens() -> None:
    bucket = TokenBucket(rate=10, capacity=100, now=10)
    bucket.spend(100, 10)
    assert bucket.level(0) == 0
    assert bucket.level(11) == 10


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 500)), min_size=1, max_size=60),
    st.floats(1, 1000),
)
def test_waiting_for_debts_never_exceeds_the_rate(
    steps: list[tuple[float, float]], rate: float
) -> None:
    bucket = TokenBucket(rate=rate, capacity=rate, now=0)
    now = spent = 0.0
    for pause, piece in steps:
        now += max(pause, bucket.delay(now))
        assert spent <= rate * now + rate + 1e-6
        bucket.spend(piece, now)
        spent += piece
