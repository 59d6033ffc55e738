"""The bucket against the definition of a rate, and the pauses of 429s."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sensorium.routing.limits import Bucket
from tests.routing.test_breaker import Clock


def bucket(clock: Clock, per_minute: float | None = 30, burst: int = 5) -> Bucket:
    return Bucket(clock, per_minute, burst, jitter=lambda: 1.0)


def test_a_burst_goes_at_once_and_the_rest_by_rate() -> None:
    clock = Clock()
    limit = bucket(clock)
    assert [limit.take() for _ in range(6)] == [True] * 5 + [False]
    assert limit.wait_s() == 2
    clock.now += 2
    assert limit.take() and not limit.take()


@given(st.lists(st.floats(0, 20), max_size=60), st.integers(1, 10))
def test_never_more_than_the_rate_allows(waits: list[float], burst: int) -> None:
    clock = Clock()
    began, limit, taken = clock.now, bucket(clock, 40, burst), 0
    for wait in waits:
        clock.now += wait
        while limit.take():
            taken += 1
    assert taken <= burst + (clock.now - began) * 40 / 60 + 1e-6


def test_waiting_as_long_as_it_says_is_enough() -> None:
    clock = Clock()
    limit = bucket(clock, 7, 1)
    for _ in range(200):
        clock.now += limit.wait_s() + 1e-9
        assert limit.take()


def test_without_a_rate_there_is_no_limit_but_a_pause_holds() -> None:
    clock = Clock()
    limit = bucket(clock, None)
    assert all(limit.take() for _ in range(1000))
    assert limit.refused(7) == 7
    assert (limit.take(), limit.wait_s()) == (False, 7)
    clock.now += 7
    assert limit.take()


def test_pauses_double_until_a_call_is_taken() -> None:
    clock = Clock()
    limit = bucket(clock, None)
    assert [limit.refused(None) for _ in range(8)] == [2, 4, 8, 16, 32, 60, 60, 60]
    limit.accepted()
    assert limit.refused(None) == 2


def test_a_shorter_pause_does_not_cut_a_longer_one() -> None:
    clock = Clock()
    limit = bucket(clock, None)
    limit.refused(50)
    limit.refused(1)
    assert limit.wait_s() == 50
