"""How long requests are let wait: for a provider that refuses them, and for somebody who can serve them at all."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensorium.jobs.again import THROTTLED_S
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.policy import Policy
from sensorium.jobs.request import Made, Request, State
from sensorium.jobs.run import Run
from sensorium.jobs.runner import SLOW_TICK_S
from tests.jobs.queues import ASKED, Failed, Gate, put, queue, table, until
from tests.store.vaults import Clock

HOUR_S = 3600.0


def test_the_hour_of_being_refused_begins_with_the_first_refusal_not_with_the_wait_before(tmp_path: Path) -> None:
    clock, refused = Clock(), list[float]()

    async def work(run: Run) -> Made:
        if run.request.lane == "long":
            return await gate(run)
        refused.append(clock.now)
        raise Failed("busy", 600.0)

    gate = Gate()

    async def beside() -> None:
        async with queue(tmp_path, work, clock=clock, lanes=Lanes(1, lambda lane: 1)) as jobs:
            await jobs.submit(replace(ASKED, lane="long"))
            await until(lambda: bool(gate.began))
            waits, _ = await jobs.submit(ASKED)
            clock.now += 5 * HOUR_S
            gate.open.set()
            while not (found := await jobs.of("a", waits.id)).done:
                if found.state is State.DELAYED:
                    clock.now += 61.0
                found = await jobs.changed(found, 0.01)
            assert (found.state, found.told["error_type"]) == (State.FAILED, "runner_scheduling_failure")
            assert THROTTLED_S - 700 <= refused[-1] - refused[0] <= THROTTLED_S
            assert found.runs == 1  # the last one, that was its end

    asyncio.run(beside())


def test_a_provider_that_does_not_say_when_is_asked_less_and_less_until_it_answers(tmp_path: Path) -> None:
    clock, asked = Clock(), list[float]()

    async def work(run: Run) -> Made:
        asked.append(clock.now)
        if len(asked) in (7, 8):
            raise Failed("server_error" if len(asked) == 7 else "busy")
        if len(asked) < 9:
            raise Failed("busy")
        return Made(b"1")

    async def beside() -> None:
        async with queue(tmp_path, work, clock=clock) as jobs:
            request, _ = await jobs.submit(ASKED)
            while not (found := await jobs.of("a", request.id)).done:
                if found.state is State.DELAYED:
                    clock.now = jobs.requests._database.read("SELECT not_before FROM requests")[0][0]
                await jobs.changed(found, 0.01)
            assert (found.state, found.told.get("throttled")) == (State.SUCCEEDED, None)

    asyncio.run(beside())
    waits = [after - before for before, after in itertools.pairwise(asked)]
    assert (waits[:6], 0 < waits[6] < 1, waits[7]) == ([5.0, 10.0, 20.0, 40.0, 60.0, 60.0], True, 5.0)


@pytest.mark.parametrize(("unserved_s", "state"), [(HOUR_S, State.FAILED), (0.0, State.QUEUED)])
def test_a_lane_that_nobody_serves_is_given_its_hour_however_long_its_requests_waited_before(
    tmp_path: Path, unserved_s: float, state: State
) -> None:
    clock, served = Clock(), [True]
    gate, lanes = Gate(), Lanes(1, lambda lane: 1, ready=lambda lane: served[0])

    async def beside() -> None:
        async with queue(tmp_path, gate, clock=clock, lanes=lanes, policy=Policy(unserved_s=unserved_s)) as jobs:

            async def passed(seconds: float) -> Request:
                """The request, after that time and a look of the queue at its lanes."""
                clock.now += seconds
                slow = clock.now
                await until(lambda: jobs._runner._slow == slow)
                await asyncio.sleep(0.01)
                return await jobs.of("a", waits.id)

            await jobs.submit(ASKED)
            await until(lambda: bool(gate.began))
            waits, _ = await jobs.submit(ASKED)
            await passed(5 * HOUR_S)
            served[0] = False
            assert (await passed(SLOW_TICK_S)).state is State.QUEUED
            assert (await passed(HOUR_S - 1)).state is State.QUEUED
            served[0] = True
            assert (await passed(SLOW_TICK_S)).state is State.QUEUED
            served[0] = False
            assert (await passed(HOUR_S - 1)).state is State.QUEUED
            found = await passed(HOUR_S)
            assert found.state is state
            if found.done:
                assert found.told["error_type"] == "runner_scheduling_failure"

    asyncio.run(beside())


@pytest.mark.parametrize("look", ["standing", "waiting", "keys"])
def test_what_waits_is_counted_without_reading_what_has_ended(tmp_path: Path, look: str) -> None:
    async def beside() -> None:
        async with table(tmp_path) as requests:
            await put(requests)
            await put(requests, start_within_s=5.0)
            asked, database = list[str](), requests._database

            def spied(read: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
                def heard(sql: str, *values: Any) -> list[Any]:
                    asked.append(sql)
                    return read(sql, *values)

                return heard

            database.read, database.search = spied(database.read), spied(database.search)  # type: ignore[method-assign]
            assert getattr(requests, look)()
            (sql,) = list(asked)
            plan = [row[3] for row in database.read(f"EXPLAIN QUERY PLAN {sql}")]
            assert not [step for step in plan if step == "SCAN requests"], plan

    asyncio.run(beside())
