"""The retry table (jobs.md, section 9): what follows on every kind of failure, and what it counts as."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import Cause
from sensorium.jobs.again import MOST_RUNS, Again, after, kept
from sensorium.jobs.request import Made, Request, Rules, State
from sensorium.jobs.run import Run
from tests.jobs.queues import ASKED, Failed, queue
from tests.store.vaults import Clock

NOW = 1000.0
ROW = Request(
    *(1, "id", "do", "an/app", "", "lane", "a", 0, 0.0, {}, Rules(), State.RUNNING, 1, 1, 0),
    *(None, {}, None, None, 1, NOW - 10, NOW - 5, None, None, None, False),
)
NO_RETRY, CAPPED = Rules(no_retry=True), Rules(retries={"timeout": 0, "server_error": 2})
TABLE: list[tuple[Cause, int, int, Rules, float | None, Again | None]] = [
    # cause, runs so far, deaths so far, rules, Retry-After -> what follows, in the middle of the spread
    ("final", 1, 0, Rules(), None, None),
    ("final", 1, 0, Rules(), 3.0, None),
    ("server_error", 1, 0, Rules(), None, Again(0.5)),
    ("server_error", 2, 0, Rules(), None, Again(1.0)),
    ("server_error", 7, 0, Rules(), None, Again(32.0)),
    ("server_error", 8, 0, Rules(), None, Again(60.0)),
    ("server_error", 9, 0, Rules(), None, Again(60.0)),
    ("server_error", 10, 0, Rules(), None, None),
    ("connection_error", 1, 0, Rules(), None, Again(0.5)),
    ("timeout", 1, 0, Rules(), None, Again(0.5)),
    ("timeout", 1, 0, CAPPED, None, None),
    ("server_error", 2, 0, CAPPED, None, Again(1.0)),
    ("death", 1, 0, Rules(), None, Again(0.0, death=1)),
    ("death", 2, 1, Rules(), None, None),
    ("death", 1, 0, NO_RETRY, None, None),
    ("server_error", 1, 0, NO_RETRY, None, None),
    ("connection_error", 1, 0, NO_RETRY, None, None),
    ("timeout", 1, 0, NO_RETRY, None, None),
    ("busy", 1, 0, Rules(), None, Again(5.0, run=0, cools=True)),
    ("busy", 1, 0, Rules(), 17.0, Again(17.0, run=0, cools=True)),
    ("busy", MOST_RUNS, 0, Rules(), None, Again(5.0, run=0, cools=True)),
    ("busy", 1, 0, Rules(), 3595.0, Again(3595.0, run=0, cools=True)),
    ("busy", 1, 0, Rules(), 3596.0, None),
    ("busy", 1, 0, NO_RETRY, None, None),
]


@pytest.mark.parametrize(("cause", "runs", "deaths", "rules", "retry_after", "follows"), TABLE)
def test_the_table(cause: Cause, runs: int, deaths: int, rules: Rules, retry_after: float | None, follows: Again | None) -> None:
    assert after(cause, replace(ROW, runs=runs, deaths=deaths, rules=rules), 0.5, retry_after, NOW) == follows


CAPS: list[tuple[Rules, list[Cause], list[Cause], bool]] = [
    # rules, how the runs before ended, how they end in addition, whether another run follows on the last
    (CAPPED, [], ["server_error", "server_error"], True),
    (CAPPED, [], ["server_error", "server_error", "server_error"], False),
    (CAPPED, ["connection_error"] * 5, ["server_error", "server_error"], True),
    (CAPPED, ["connection_error"] * 5, ["server_error", "server_error", "server_error"], False),
    (CAPPED, ["server_error", "connection_error", "server_error"], ["connection_error"], True),
    (CAPPED, ["server_error", "connection_error", "busy", "server_error", "busy"], ["server_error"], False),
    (CAPPED, ["server_error", "death", "server_error"], ["connection_error", "server_error"], False),
    (CAPPED, ["server_error"], ["timeout"], False),
    (Rules(retries={"connection_error": 1, "timeout": 1, "server_error": 1}), ["timeout", "server_error"], ["connection_error"], True),
    (Rules(retries={"connection_error": 1, "timeout": 1, "server_error": 1}), ["timeout", "server_error"], ["timeout"], False),
    (Rules(retries={"timeout": 99}), ["timeout"] * 8, ["timeout"], True),
    (Rules(retries={"timeout": 99}), ["timeout"] * 9, ["timeout"], False),
]


@pytest.mark.parametrize(("rules", "before", "then", "follows"), CAPS)
def test_each_class_of_failure_has_a_cap_of_its_own(rules: Rules, before: list[Cause], then: list[Cause], follows: bool) -> None:
    request, again, ends = replace(ROW, rules=rules, runs=0), Again(0.0), [*before, *then]
    for number, cause in enumerate(ends, 1):
        request = replace(request, runs=request.runs + 1)
        found = after(cause, request, 0.5, None, NOW)
        assert (found is not None) == (number < len(ends) or follows)
        again = found or again
        counts = request.runs - 1 + again.run, request.deaths + again.death
        request = replace(request, told=kept(request, cause, again, NOW), runs=counts[0], deaths=counts[1])


def test_a_run_that_is_given_back_counts_for_no_class() -> None:
    told = kept(ROW, "timeout", Again(1.0), NOW)
    assert kept(replace(ROW, told=told), "given back", Again(0.0, run=0), NOW) == told == {"failed": {"timeout": 1}}


@given(st.integers(1, MOST_RUNS - 1), st.floats(0, 1))
def test_tries_spread_by_a_quarter(runs: int, chance: float) -> None:
    middle = min(0.5 * 2 ** (runs - 1), 60.0)
    again = after("server_error", replace(ROW, runs=runs), chance, None, NOW)
    assert again is not None
    assert 0.75 * middle <= again.delay_s <= 1.25 * middle


CAUSES: list[tuple[list[Cause], State, int, int, int]] = [
    # how the runs end -> state, runs and deaths on record, attempts
    ([], State.SUCCEEDED, 1, 0, 1),
    (["server_error", "timeout", "connection_error"], State.SUCCEEDED, 4, 0, 4),
    (["busy", "busy", "busy"], State.SUCCEEDED, 1, 0, 4),
    (["final"], State.FAILED, 1, 0, 1),
    (["death"], State.SUCCEEDED, 2, 1, 2),
    (["death", "death"], State.FAILED, 2, 1, 2),
    (["server_error"] * 10, State.FAILED, 10, 0, 10),
]


def test_the_queue_counts_every_class_for_itself(tmp_path: Path) -> None:
    causes: list[Cause] = ["connection_error", "connection_error", "server_error", "timeout", "server_error"]
    clock, asked = Clock(), replace(ASKED, rules=Rules(retries={"server_error": 1, "connection_error": 2}))

    async def work(run: Run) -> Made:
        raise Failed(causes[run.request.attempt - 1])

    async def beside() -> None:
        async with queue(tmp_path, work, clock=clock) as jobs:
            found, _ = await jobs.submit(asked)
            while not found.done:
                clock.now += 61.0 if found.state is State.DELAYED else 0.0
                found = await jobs.changed(found, 0.01)
            assert (found.state, found.attempt, "failed" in found.told) == (State.FAILED, 5, False)

    asyncio.run(beside())


@pytest.mark.parametrize(("causes", "state", "runs", "deaths", "attempts"), CAUSES)
def test_what_the_queue_makes_of_it(tmp_path: Path, causes: list[Cause], state: State, runs: int, deaths: int, attempts: int) -> None:
    clock = Clock()

    async def work(run: Run) -> Made:
        if run.request.attempt <= len(causes):
            raise Failed(causes[run.request.attempt - 1])
        return Made(b"1")

    async def beside() -> None:
        async with queue(tmp_path, work, clock=clock) as jobs:
            found, _ = await jobs.submit(ASKED)
            while not found.done:
                clock.now += 61.0 if found.state is State.DELAYED else 0.0
                found = await jobs.changed(found, 0.01)
            assert (found.state, found.runs, found.deaths, found.attempt) == (state, runs, deaths, attempts)
            outcomes = [outcome for *_, outcome in jobs.requests.attempts(found.id)]
            assert outcomes == [*causes[: attempts - 1], state.name.lower()]

    asyncio.run(beside())
