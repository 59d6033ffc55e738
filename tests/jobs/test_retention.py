"""How long what is kept (jobs.md, section 14.1): payloads, logs, rows, and the files beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.logs import Line
from sensorium.jobs.policy import Policy
from sensorium.jobs.request import Made, NotRepeatable, State, UnknownRequest
from sensorium.jobs.requests import BATCH
from sensorium.jobs.results import input_name
from sensorium.jobs.run import Run
from tests.jobs.queues import ASKED, claimed, put, queue, table, unkept, until
from tests.store.vaults import Clock, every_byte

DAY = 86_400.0
SECRET, LONG = b'{"prompt": "canary-words"}', b'"' + b"canary-words" * 9_000 + b'"'


async def echoes(run: Run) -> Made:
    run.log("a line")
    return Made(run.body)


def on(folder: Path, does: Callable[[Jobs], Awaitable[None]], clock: Clock, at_once: int = 1, policy: Policy | None = None) -> None:
    async def beside() -> None:
        async with queue(folder, echoes, clock=clock, lanes=Lanes(at_once, lambda lane: at_once), policy=policy) as jobs:
            await does(jobs)
            jobs.requests._database.checkpoint()

    asyncio.run(beside())


@pytest.mark.parametrize("body", [SECRET, LONG])
def test_a_payload_goes_and_its_row_stays(tmp_path: Path, body: bytes) -> None:
    clock = Clock()

    async def does(jobs: Jobs) -> None:
        ended = await jobs.ended((await jobs.submit(replace(ASKED, body=body)))[0])
        clock.now += 2 * DAY - 3600
        assert await jobs.output(ended) == body
        clock.now += 3601
        await until(lambda: jobs._watch.of("a", ended.id).payload_gone)
        await until(lambda: not list((tmp_path / "results").iterdir()))
        gone = await jobs.of("a", ended.id)
        assert (gone.state, gone.payload_gone, await jobs.output(gone)) == (State.SUCCEEDED, True, None)
        with pytest.raises(NotRepeatable):
            await jobs.retry("a", ended.id)

    on(tmp_path, does, clock, policy=Policy(kept_s=2 * DAY))
    assert b"canary-words" not in every_byte(tmp_path)


def test_a_row_goes_after_ninety_days_with_all_that_is_its(tmp_path: Path) -> None:
    clock = Clock()

    async def does(jobs: Jobs) -> None:
        ended = await jobs.ended((await jobs.submit(replace(ASKED, webhook_url="http://there/")))[0])
        for days in (31.0, 58.9):
            clock.now += days * DAY
            await until(lambda: jobs._watch.of("a", ended.id).payload_gone)
            assert (await jobs.of("a", ended.id)).id == ended.id
        clock.now += 0.2 * DAY
        await until(lambda: not jobs.requests.listed("a", 9))
        await until(lambda: not jobs._runner._beside)
        with pytest.raises(UnknownRequest):
            await jobs.of("a", ended.id)
        for table_ in ("request_logs", "attempts", "outbox"):
            assert jobs.requests._database.read(f"SELECT count(*) FROM {table_}") == [(0,)]

    on(tmp_path, does, clock)


def test_lines_go_after_a_week_however_many(tmp_path: Path) -> None:
    clock = Clock()

    async def does() -> None:
        async with table(tmp_path, clock) as requests:
            await put(requests)
            (run,) = await claimed(requests)
            old = [Line(1, number, clock.now, "INFO", "x") for number in range(1, 3 * BATCH)]
            await requests.finish(run, State.SUCCEEDED, Made(b"1"), [*old, Line(1, 9999, clock.now + 5, "INFO", "young")])
        clock.now += 7 * DAY + 1
        async with queue(tmp_path, clock=clock) as jobs:
            await until(lambda: [line.message for line in jobs.requests.lines(run.id)] == ["young"])
            assert not (await jobs.of("a", run.id)).payload_gone

    asyncio.run(does())


def test_many_payloads_go_in_batches(tmp_path: Path) -> None:
    clock = Clock()

    async def does() -> None:
        async with table(tmp_path, clock) as requests:
            for _ in range(2):
                await asyncio.gather(*(put(requests) for _ in range(BATCH)))
            for run in await claimed(requests, 2 * BATCH - 100):
                await requests.finish(run, State.SUCCEEDED, Made(b"1"), kept_s=DAY)
            clock.now += DAY
            assert [(len(gone), more) for gone, more in [await requests.expire(1e9) for _ in range(3)]] == [
                (BATCH, True),
                (BATCH - 100, False),
                (0, False),
            ]
            assert requests.standing() == (100, 0)

    asyncio.run(does())


@pytest.mark.parametrize("way", ["run", "cancel", "deadline"])
@pytest.mark.parametrize("body", [SECRET, LONG])
def test_an_input_that_is_not_to_be_kept_goes_at_the_end(tmp_path: Path, way: str, body: bytes) -> None:
    clock = Clock()

    async def does(jobs: Jobs) -> None:
        made, _ = await jobs.submit(replace(unkept(), body=body, start_within_s=5.0 if way == "deadline" else None))
        if way == "cancel":
            await jobs.cancel("a", made.id)
        clock.now += 6.0 if way == "deadline" else 0.0
        ended = await jobs.ended(made)
        assert jobs.requests.input(ended.id) is None
        await until(lambda: not (tmp_path / "results" / input_name(ended.id)).exists())
        clock.now += DAY + 1
        await until(lambda: jobs._watch.of("a", ended.id).payload_gone)

    on(tmp_path, does, clock, at_once=way == "run")


def test_an_output_that_is_not_to_be_kept_stays_an_hour_after_the_first_look(tmp_path: Path) -> None:
    clock = Clock()

    async def does(jobs: Jobs) -> None:
        ended = await jobs.ended((await jobs.submit(unkept()))[0])
        clock.now += 7201.0
        for _ in range(2):  # the second look moves nothing
            assert await jobs.output(ended) == b"{}"
            clock.now += 1799.0
        await asyncio.sleep(0.02)
        assert not jobs.requests.of("a", ended.id).payload_gone
        clock.now += 3.0
        gone, _ = await jobs.requests.expire(1e9)
        assert gone == [ended.id]

    on(tmp_path, does, clock)


def test_a_removed_request_leaves_nothing(tmp_path: Path) -> None:
    async def does(jobs: Jobs) -> None:
        for asked in (ASKED, replace(ASKED, webhook_url="http://there/")):
            ended = await jobs.ended((await jobs.submit(replace(asked, body=LONG)))[0])
            await until(lambda: not jobs._runner.running)
            await jobs.remove("a", ended.id)
        assert list((tmp_path / "results").iterdir()) == []
        for table_ in ("requests", "request_logs", "attempts", "outbox"):
            assert jobs.requests._database.read(f"SELECT count(*) FROM {table_}") == [(0,)]

    on(tmp_path, does, Clock())
    assert b"canary-words" not in every_byte(tmp_path)


def test_what_nobody_serves_fails_after_an_hour(tmp_path: Path) -> None:
    clock = Clock()

    async def does() -> None:
        lanes = Lanes(4, lambda lane: 4, ready=lambda lane: lane != "down")
        async with queue(tmp_path, clock=clock, lanes=lanes) as jobs:
            made, _ = await jobs.submit(replace(ASKED, lane="down"))
            clock.now += 3599.0
            assert not (await jobs.changed(made, 0.02)).done
            clock.now += 40.0
            ended = await jobs.ended(made)
            assert (ended.state, ended.told["error_type"], ended.attempt) == (State.FAILED, "runner_scheduling_failure", 0)

    asyncio.run(does())
