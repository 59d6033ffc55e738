"""Cancelling (J-13): against a claim, an end and another try, and what is answered."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.request import Made, Request, State, UnknownRequest
from sensorium.jobs.requests import new_id
from sensorium.jobs.run import Run
from tests.jobs.queues import ASKED, Failed, Gate, Told, counted, queue, stored, until
from tests.store.vaults import Clock

PAIRS = 4000


def test_what_is_answered(tmp_path: Path) -> None:
    gate, told = Gate(), Told()

    async def does() -> None:
        async with queue(tmp_path, gate, lanes=Lanes(1, lambda lane: 1), told=told) as jobs:
            running, _ = await jobs.submit(replace(ASKED, webhook_url="http://there/"))
            await gate.came.wait()
            waiting, _ = await jobs.submit(ASKED)
            assert await jobs.cancel("a", waiting.id)
            assert (await jobs.of("a", waiting.id)).state is State.CANCELLED
            assert await jobs.cancel("a", running.id)
            ended = await jobs.ended(running)
            assert (ended.state, ended.status, ended.told["error_type"]) == (State.CANCELLED, 499, "client_cancelled")
            assert [await jobs.cancel("a", one.id) for one in (running, waiting)] == [False, False]
            for caller, id in (("a", new_id(0.0)), ("b", running.id)):
                with pytest.raises(UnknownRequest):
                    await jobs.cancel(caller, id)
            assert ([one.id for one in gate.began], [one.id for one in told.ended]) == ([running.id], [running.id])

    asyncio.run(does())


class Race:
    """Requests that are cancelled at any moment. The journal says what began; `refused` are those of which the cancel came too late."""

    def __init__(self, seed: int) -> None:
        self.chance, self.clock = random.Random(seed), Clock()
        self.began, self.ended, self.cancelled_waiting, self.states = Counter[str](), Counter[str](), set[str](), dict[str, State]()

    async def work(self, run: Run) -> Made:
        assert run.request.id not in self.cancelled_waiting
        self.began[run.request.id] += 1
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)
        if self.chance.random() < 0.3 and run.request.attempt < 3:
            raise Failed(self.chance.choice(["death", "server_error", "busy"]))
        return Made(b"1")

    async def pair(self, jobs: Jobs) -> None:
        made, _ = await jobs.submit(ASKED)
        for _ in range(self.chance.choice([0, 0, 1, 2, 5, 10, 20, 40])):
            await asyncio.sleep(0)
        times = self.chance.choice([1, 1, 2])
        for _ in range(times):
            asked = await jobs.cancel("a", made.id)
            now = jobs.requests.of("a", made.id)
            if asked and now.state is State.CANCELLED and made.id not in jobs._runner.running:
                self.cancelled_waiting.add(made.id)
            if not asked:
                assert now.done
        ended = await jobs.ended(made)
        self.states[made.id] = ended.state
        if made.id in self.cancelled_waiting:
            assert ended.state is State.CANCELLED


@pytest.mark.parametrize("seed", [1, 2])
def test_one_end_each_whatever_comes_first(tmp_path: Path, seed: int) -> None:
    race, told = Race(seed), Told()

    async def does() -> None:
        async with queue(tmp_path, race.work, lanes=Lanes(8, lambda lane: 8), clock=race.clock, told=told) as jobs:
            for _ in range(PAIRS // 2 // 100):
                await asyncio.gather(*(race.pair(jobs) for _ in range(100)))
                race.clock.now += 6.0
            await until(lambda: counted(jobs) == ({}, {}, {}) == stored(jobs) and not jobs._runner.running)
            found: list[Request] = await jobs.listed("a", PAIRS)
            assert {one.id: one.state for one in found} == race.states
            assert len(found) == PAIRS // 2

    asyncio.run(does())
    assert len(set(race.states.values())) >= 2


def test_a_cancel_between_a_failure_and_another_try_holds(tmp_path: Path) -> None:
    """The cancel is on disk, and answered with a yes, when the run that it was for has just failed."""
    clock, failing = Clock(), asyncio.Event()

    async def fails(run: Run) -> Made:
        await failing.wait()
        raise Failed("death")

    async def does() -> None:
        async with queue(tmp_path, fails, clock=clock) as jobs:
            made, _ = await jobs.submit(ASKED)
            await until(lambda: made.id in jobs._runner.running)
            cancelling = asyncio.create_task(jobs.requests.cancel("a", made.id))
            failing.set()
            assert (await cancelling)[1]
            assert (await jobs.ended(made)).state is State.CANCELLED
            assert [outcome for *_, outcome in jobs.requests.attempts(made.id)] == ["death"]

    asyncio.run(does())
