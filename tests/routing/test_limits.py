"""The bucket against the definition of a rate, and the pauses of 429s."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sensorium.routing.limits import Bucket, Pause
from tests.routing.test_breaker import Clock


def bucket(clock: Clock, per_minute: float | None = 30, burst: int = 5) -> Bucket:
    return Bucket(clock, per_minute, burst)


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


def test_who_comes_later_waits_for_those_before_it() -> None:
    clock = Clock()
    limit = bucket(clock, 60, 2)
    assert [limit.wait_s(ahead) for ahead in range(4)] == [0, 0, 1, 2]


def test_what_was_not_used_goes_back() -> None:
    limit = bucket(Clock(), 30, 1)
    assert limit.take() and not limit.take()
    limit.put_back()
    assert limit.take() and not limit.take()


def test_without_a_rate_there_is_no_limit() -> None:
    limit = bucket(Clock(), None)
    assert all(limit.take() for _ in range(1000))
    assert limit.wait_s(10**6) == 0


def pause(clock: Clock) -> Pause:
    return Pause(clock, jitter=lambda: 1.0)


def test_a_pause_lasts_as_long_as_the_provider_says() -> None:
    clock = Clock()
    held = pause(clock)
    assert (held.wait_s(), held.refused(7), held.wait_s()) == (0, 7, 7)
    clock.now += 7
    assert held.wait_s() == 0


def test_pauses_double_until_a_call_is_taken() -> None:
    held = pause(Clock())
    assert [held.refused(None) for _ in range(8)] == [2, 4, 8, 16, 32, 60, 60, 60]
    held.accepted()
    assert held.refused(None) == 2


def test_a_shorter_pause_does_not_cut_a_longer_one() -> None:
    held = pause(Clock())
    held.refused(50)
    held.refused(1)
    assert held.wait_s() == 50
