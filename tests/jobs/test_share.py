"""Fair shares of a lane (jobs.md, section 8, and test J-10), without a database: who goes first, by (tag, order of submission)."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from sensorium.jobs.share import Shares

LANE = "lane"


class Line:
    """Those who wait in one lane that runs one at a time, `seconds` each."""

    def __init__(self, shares: Shares) -> None:
        self.shares, self._waiting, self._order = shares, list[tuple[float, int, str]](), count()

    def submit(self, caller: str) -> None:
        heapq.heappush(self._waiting, (self.shares.tag(LANE, caller), next(self._order), caller))

    def run(self, seconds: float = 1.0) -> str:
        tag, _, caller = heapq.heappop(self._waiting)
        self.shares.claimed(LANE, tag)
        self.shares.ran(LANE, seconds)
        return caller

    def __len__(self) -> int:
        return len(self._waiting)


@given(st.integers(0, 900), st.floats(0.01, 100))
def test_a_thousand_do_not_delay_the_next_caller(begun: int, seconds: float) -> None:
    """B's k-th ends before A's (k+2)-th after B's arrival."""
    line = Line(Shares())
    line.shares.ran(LANE, seconds)
    for _ in range(1000):
        line.submit("a")
    for _ in range(begun):
        line.run(seconds)
    for _ in range(10):
        line.submit("b")
    ended = [line.run(seconds) for _ in range(100)]
    places = {caller: [place for place, who in enumerate(ended) if who == caller] for caller in "ab"}
    assert len(places["b"]) == 10
    for k, place in enumerate(places["b"]):
        assert place < places["a"][k + 1]


def test_weights_are_shares() -> None:
    line, ended = Line(Shares({"a": 3.0, "b": 1.0})), Counter[str]()
    for caller in "ab" * 20:
        line.submit(caller)
    for _ in range(2000):
        caller = line.run()
        ended[caller] += 1
        line.submit(caller)
    assert abs(ended["a"] / 2000 - 0.75) <= 0.03


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=300), st.sampled_from([0.5, 1.0, 3.0]))
def test_one_callers_requests_keep_their_order(verbs: list[tuple[str, bool]], weight: float) -> None:
    """And nobody waits for ever: between two runs of one caller's, every other who waits has had as many as its weight says."""
    shares, last = Shares({"d": weight}), dict[str, float]()
    waiting = list[tuple[float, int, str]]()
    for number, (caller, runs) in enumerate(verbs):
        if runs and waiting:
            tag, _, _ = heapq.heappop(waiting)
            shares.claimed(LANE, tag)
        else:
            tag = shares.tag(LANE, caller)
            assert tag > last.get(caller, 0.0)
            last[caller] = tag
            heapq.heappush(waiting, (tag, number, caller))


@given(st.lists(st.sampled_from("abc"), min_size=30, max_size=90))
def test_who_comes_late_waits_for_one_of_each_other(asked: list[str]) -> None:
    line = Line(Shares())
    for caller in asked:
        line.submit(caller)
    for _ in range(len(asked) // 2):
        line.run()
    line.submit("late")
    before = Counter[str]()
    while (caller := line.run()) != "late":
        before[caller] += 1
    assert max(before.values(), default=0) <= 2


def test_lanes_have_times_of_their_own() -> None:
    shares = Shares()
    for _ in range(100):
        shares.claimed("busy", shares.tag("busy", "a"))
    assert (shares.tag("idle", "a"), shares.tag("busy", "b")) == (1.0, 101.0)


def test_after_a_restart_the_shares_go_on() -> None:
    shares = Shares()
    shares.waits(LANE, "a", 900.0)
    shares.waits(LANE, "b", 400.0)
    shares.begins(LANE, 350.0)
    assert (shares.tag(LANE, "a"), shares.tag(LANE, "b"), shares.tag(LANE, "new")) == (901.0, 401.0, 350.0)
