"""Low priority (J-12): only when nobody else waits, unless the operator says that nobody waits for ever."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from sensorium.jobs.lanes import Lanes
from sensorium.jobs.policy import Policy
from sensorium.jobs.request import LOW, Made, Request, State
from sensorium.jobs.run import Run
from tests.jobs.queues import ASKED, queue, until
from tests.store.vaults import Clock

LOWS, NORMALS = 60, 120


class Load:
    """One at a time, a second each; behind every run a normal request comes, as long as there are any."""

    def __init__(self, normals: int) -> None:
        self.clock, self.began, self.left = Clock(), list[Request](), normals
        self.step = asyncio.Event()
        self.waiting_normal = 0

    async def work(self, run: Run) -> Made:
        self.began.append(run.request)
        self.waiting_normal -= run.request.prio == 0 and run.request.path == "normal"
        if run.request.prio == LOW:
            assert not self.waiting_normal
        self.clock.now += 1.0
        await self.step.wait()
        self.step.clear()
        return Made(b"1")


def play(folder: Path, load: Load, policy: Policy) -> list[Request]:
    async def does() -> list[Request]:
        limit = [0]
        async with queue(folder, load.work, lanes=Lanes(1, lambda lane: limit[0]), clock=load.clock, policy=policy) as jobs:
            for _ in range(LOWS):
                await jobs.submit(replace(ASKED, prio=LOW, path="low"))

            async def normal() -> None:
                load.left -= 1
                load.waiting_normal += 1
                await jobs.submit(replace(ASKED, caller="b", path="normal"))

            await normal()
            limit[0] = 1
            total = LOWS + load.left + 1
            for number in range(total):
                await until(lambda number=number: len(load.began) > number)  # type: ignore[misc]
                if load.left:
                    await normal()
                load.step.set()
            await until(lambda: not jobs._runner.running)
            return await jobs.listed(None, 1000, newest_first=False)

    return asyncio.run(does())


def test_low_waits_for_everybody_else_and_ends(tmp_path: Path) -> None:
    load = Load(NORMALS)
    ended = play(tmp_path, load, Policy())
    assert {one.state for one in ended} == {State.SUCCEEDED}
    assert [one.path for one in load.began] == ["normal"] * NORMALS + ["low"] * LOWS


def test_with_the_option_low_is_normal_after_a_while(tmp_path: Path) -> None:
    load = Load(NORMALS)
    play(tmp_path, load, Policy(low_max_wait_s=10.0))
    began = [one.path for one in load.began]
    assert began[:10] == ["normal"] * 10
    # From then on the low ones have their share of the lane, as any other caller: the normal ones do not hold them up any more.
    assert began.index("low") <= 12
    assert began[12 : 12 + 2 * LOWS].count("low") >= LOWS - 2


def test_a_place_tells_of_the_lift(tmp_path: Path) -> None:
    clock = Clock()

    async def does() -> None:
        async with queue(tmp_path, lanes=Lanes(0, lambda lane: 0), clock=clock, policy=Policy(low_max_wait_s=10.0)) as jobs:
            low, _ = await jobs.submit(replace(ASKED, prio=LOW))
            for _ in range(3):
                await jobs.submit(replace(ASKED, caller="b"))
            assert await jobs.position(low) == 3
            clock.now += 10.0
            lifted = await jobs.changed(low, 5.0)
            assert (lifted.prio, await jobs.position(lifted)) == (0, 0)

    asyncio.run(does())
