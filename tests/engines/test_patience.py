"""When an engine process is ended and when it is started again, on a clock that nothing waits for (jobs.md, section 12 and J-16)."""

from __future__ import annotations

from sensorium.engines.patience import BROKEN_PAUSE_S, LONGEST_PAUSE_S, Patience, pause_after


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def looked(patience: Patience, clock: Clock, seconds: int) -> list[tuple[int, str]]:
    """What the looks of so many seconds say, by the second."""
    found = []
    for second in range(1, seconds + 1):
        clock.now += 1
        fault = patience.look()
        if fault is not None:
            found.append((second, fault))
    return found


def test_three_set_ups_that_fail_in_a_row_are_enough_for_a_while() -> None:
    patience = Patience(Clock())
    waits = []
    for _ in range(5):
        patience.born()
        waits.append((patience.died(), patience.broken))
    assert waits == [(1.0, False), (2.0, False), (300.0, True), (300.0, True), (300.0, True)]
    patience.born()
    patience.ready()
    assert not patience.broken
    patience.died()
    patience.born()
    assert patience.died() == 1.0  # the count begins anew


def test_one_that_was_ready_comes_back_at_once_and_later_when_it_keeps_dying() -> None:
    clock = Clock()
    patience = Patience(clock)
    waits = []
    for lived in (5, 5, 5, 31, 5):
        patience.born()
        patience.ready()
        clock.now += lived
        waits.append(patience.died())
    assert waits == [0.0, 0.2, 0.4, 0.0, 0.2]
    assert pause_after(50) == pause_after(10**6) == LONGEST_PAUSE_S < BROKEN_PAUSE_S


def test_silence_counts_from_the_first_sign_of_life() -> None:
    clock = Clock()
    patience = Patience(clock, hang_s=40)
    assert looked(patience, clock, 100) == []
    patience.heard()
    assert looked(patience, clock, 29) == [] and not patience.suspect
    assert looked(patience, clock, 1) == [] and patience.suspect
    patience.heard()
    assert not patience.suspect
    assert looked(patience, clock, 40) == [(40, "it gave no sign of life for 40 seconds and was ended")]


def test_a_sign_of_life_is_no_sign_of_being_ready() -> None:
    clock = Clock()
    patience = Patience(clock, start_s=10, hang_s=40)
    patience.heard()
    assert looked(patience, clock, 9) == []
    patience.heard()
    assert looked(patience, clock, 1) == [(1, "its models were not loaded after 10 seconds and it was ended")]
    patience.born()
    patience.heard()
    patience.ready()
    assert looked(patience, clock, 39) == []


def test_a_supervisor_that_stood_still_itself_blames_nobody() -> None:
    clock = Clock()
    patience = Patience(clock, start_s=100, hang_s=40)
    patience.heard()
    clock.now += 3600
    assert patience.look() is None
    assert patience.silent_s <= 2


def test_without_limits_everything_is_borne() -> None:
    clock = Clock()
    patience = Patience(clock)
    patience.heard()
    assert looked(patience, clock, 10_000) == []
