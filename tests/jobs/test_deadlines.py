"""Deadlines for a beginning (J-18), with a clock that is told to move."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from sensorium.jobs.lanes import Lanes
from sensorium.jobs.request import Made, State
from sensorium.jobs.requests import BATCH
from sensorium.jobs.run import Run
from tests.jobs.queues import ASKED, Failed, Gate, Told, counted, put, queue, stored, table, until
from tests.store.vaults import Clock

SOON = replace(ASKED, start_within_s=1.0)


def test_one_that_waits_too_long_has_timed_out(tmp_path: Path) -> None:
    gate, clock, told = Gate(), Clock(), Told()

    async def does() -> None:
        async with queue(tmp_path, gate, lanes=Lanes(1, lambda lane: 1), clock=clock, told=told) as jobs:
            long, _ = await jobs.submit(ASKED)
            await gate.came.wait()
            made, _ = await jobs.submit(replace(SOON, webhook_url="http://there/"))
            clock.now += 0.9
            assert not (await jobs.changed(made, 0.02)).done
            clock.now += 0.2
            ended = await jobs.ended(made)
            assert (ended.state, ended.status, ended.attempt) == (State.FAILED, 504, 0)
            assert (ended.told["error_type"], ended.told["timeout_type"]) == ("request_timeout", "user")
            assert [one.id for one in told.ended] == [made.id]
            gate.open.set()
            assert (await jobs.ended(long)).state is State.SUCCEEDED
            assert [one.id for one in gate.began] == [long.id]

    asyncio.run(does())


def test_one_that_waits_for_another_try_has_timed_out(tmp_path: Path) -> None:
    clock = Clock()

    async def fails(run: Run) -> Made:
        raise Failed("server_error")

    async def does() -> None:
        async with queue(tmp_path, fails, clock=clock) as jobs:
            made, _ = await jobs.submit(replace(ASKED, start_within_s=0.3))
            await until(lambda: jobs.requests.of("a", made.id).state is State.DELAYED)
            clock.now += 0.3  # the next try is due after 0.375 s at the earliest
            ended = await jobs.ended(made)
            assert (ended.status, ended.told["timeout_type"], ended.attempt) == (504, "user", 1)
            assert counted(jobs) == ({}, {}, {}) == stored(jobs)

    asyncio.run(does())


def test_one_that_runs_goes_on(tmp_path: Path) -> None:
    gate, clock = Gate(), Clock()

    async def does() -> None:
        async with queue(tmp_path, gate, clock=clock) as jobs:
            made, _ = await jobs.submit(SOON)
            await gate.came.wait()
            clock.now += 50.0
            assert not (await jobs.changed(await jobs.of("a", made.id), 0.02)).done
            gate.open.set()
            assert (await jobs.ended(made)).state is State.SUCCEEDED

    asyncio.run(does())


def test_no_run_begins_after_its_deadline_however_many_are_late(tmp_path: Path) -> None:
    clock, gate = Clock(), Gate()

    async def does() -> None:
        async with table(tmp_path, clock) as requests:
            await asyncio.gather(*(put(requests, start_within_s=1.0) for _ in range(BATCH + 20)))
        clock.now += 2.0
        async with queue(tmp_path, gate, clock=clock) as jobs:
            await until(lambda: jobs._runner.ready.is_set() and counted(jobs) == ({}, {}, {}) == stored(jobs))
            assert gate.began == []

    asyncio.run(does())


def test_a_request_that_is_run_again_by_hand_has_no_deadline(tmp_path: Path) -> None:
    clock = Clock()

    async def does() -> None:
        limit = [0]
        async with queue(tmp_path, clock=clock, lanes=Lanes(1, lambda lane: limit[0])) as jobs:
            made, _ = await jobs.submit(SOON)
            clock.now += 2.0
            assert (await jobs.ended(made)).status == 504
            again = await jobs.retry("a", made.id)
            limit[0] = 1
            assert (again.start_deadline, (await jobs.ended(again)).state) == (None, State.SUCCEEDED)

    asyncio.run(does())
