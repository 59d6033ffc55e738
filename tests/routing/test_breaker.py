"""The breaker against a plain model of it, and the cases that the reference router gets wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sensorium.routing.breaker import Breaker, Trip


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock, Trip(3, 30, 1))
    for _ in range(3):
        assert breaker.admit()
        breaker.failed()
    return breaker, clock


def test_three_failures_in_a_row_open_it_for_thirty_seconds() -> None:
    breaker, clock = opened()
    assert (breaker.state, breaker.admit(), breaker.retry_after_s) == ("open", False, 30)
    clock.now += 29.9
    assert not breaker.admit()
    clock.now += 0.1
    assert (breaker.state, breaker.retry_after_s) == ("half_open", 0)


def test_a_success_in_between_starts_the_count_again() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for outcome in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        assert breaker.admit()
        outcome()
    assert breaker.state == "closed"


def test_looking_at_the_state_does_not_use_up_the_trial() -> None:
    breaker, clock = opened()
    clock.now += 30
    assert [breaker.state for _ in range(5)] == ["half_open"] * 5
    assert [breaker.admit() for _ in range(3)] == [True, False, False]


def test_the_trial_decides() -> None:
    breaker, clock = opened()
    clock.now += 30
    assert breaker.admit()
    breaker.failed()
    assert breaker.state == "open"
    clock.now += 30
    assert breaker.admit()
    breaker.succeeded()
    assert breaker.state == "closed"


def test_an_abandoned_trial_is_given_back() -> None:
    breaker, clock = opened()
    clock.now += 30
    assert breaker.admit() and not breaker.admit()
    breaker.released()
    assert breaker.admit()


def test_failures_of_calls_from_before_it_opened_do_not_hold_it_open() -> None:
    clock = Clock()
    breaker = Breaker(clock, Trip(3, 30, 1))
    assert all(breaker.admit() for _ in range(5))
    for _ in range(3):
        breaker.failed()
    clock.now += 20
    breaker.failed()
    breaker.failed()
    clock.now += 10
    assert breaker.state == "half_open"


@given(st.lists(st.sampled_from(["fail", "succeed", "release", "wait"]), max_size=80))
def test_it_never_locks_up(steps: list[str]) -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for step in steps:
        if step == "wait":
            clock.now += 10
        elif breaker.admit():
            {"fail": breaker.failed, "succeed": breaker.succeeded, "release": breaker.released}[step]()
    clock.now += 30
    assert breaker.admit()
    breaker.succeeded()
    assert breaker.state == "closed"
