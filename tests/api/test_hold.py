"""How long polls are held, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.api import hold
from sensorium.api.hold import Hold


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def at_rate(per_second: float, seconds: float = 5.0) -> float:
    """The hold after so many seconds of polls at even distances."""
    clock = Clock()
    polls, held = Hold(clock), 0.0
    for _ in range(int(per_second * seconds)):
        clock.now += 1 / per_second
        held = polls.counted()
    return held


@pytest.mark.parametrize(("rate", "held"), [(1, 0.0), (10, 0.0), (45, 0.0), (1025, 0.5), (1500, 0.744), (2500, 1.0), (20_000, 1.0)])
def test_the_hold_rises_with_the_rate_of_polls(rate: float, held: float) -> None:
    assert at_rate(rate) == pytest.approx(held, abs=0.01)


def test_the_hold_is_gone_when_polls_stop() -> None:
    clock = Clock()
    polls = Hold(clock)
    for _ in range(5000):
        polls.counted()
    assert polls.counted() == 1.0
    clock.now += 2.0
    assert polls.counted() == 0.0


@given(st.lists(st.floats(0.0, 3.0), max_size=200))
def test_the_hold_is_never_outside_its_bounds(gaps: list[float]) -> None:
    clock = Clock()
    polls = Hold(clock)
    for gap in gaps:
        clock.now += gap
        assert 0.0 <= polls.counted() <= 1.0


def test_each_caller_is_remembered_for_each_request_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "MOST_SEEN", 2)
    polls = Hold(Clock())
    assert polls.told("a", "1") is None
    polls.remember("a", "1", (1, 0))
    polls.remember("b", "1", (2, 0))
    assert (polls.told("a", "1"), polls.told("b", "1"), polls.told("a", "2")) == ((1, 0), (2, 0), None)
    polls.remember("a", "1", (3, 1))
    polls.remember("c", "1", (1, 0))
    assert (polls.told("a", "1"), polls.told("b", "1"), polls.told("c", "1")) == ((3, 1), None, (1, 0))
    polls.forget("a", "1")
    polls.forget("a", "1")
    assert polls.told("a", "1") is None
