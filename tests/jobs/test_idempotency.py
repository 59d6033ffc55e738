"""One key, one request (J-20)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.request import Asked, KeyReused, State
from tests.jobs.queues import ASKED, queue, stored, until
from tests.store.vaults import Clock

KEYED = replace(ASKED, idempotency_key="key-1", body=b'{"seed": 1}')
LONG = replace(KEYED, body=b"x" * 70_000)


def on(folder: Path, does: Callable[[Jobs], Awaitable[None]], clock: Clock | None = None, at_once: int = 0) -> None:
    async def beside() -> None:
        async with queue(folder, clock=clock, lanes=Lanes(at_once, lambda lane: at_once)) as jobs:
            await does(jobs)

    asyncio.run(beside())


@pytest.mark.parametrize("asked", [KEYED, LONG])
def test_fifty_at_once_are_one(tmp_path: Path, asked: Asked) -> None:
    async def does(jobs: Jobs) -> None:
        came = await asyncio.gather(*(jobs.submit(asked) for _ in range(50)))
        assert (len({request.id for request, _ in came}), [replayed for _, replayed in came].count(False)) == (1, 1)
        assert stored(jobs)[0] == {"lane": 1} == dict(jobs._runner.lanes.waiting)
        assert len(list((tmp_path / "results").iterdir())) == (asked is LONG)

    on(tmp_path, does)


def test_without_a_key_fifty_are_fifty(tmp_path: Path) -> None:
    async def does(jobs: Jobs) -> None:
        came = await asyncio.gather(*(jobs.submit(replace(KEYED, idempotency_key=None)) for _ in range(50)))
        assert len({request.id for request, _ in came}) == 50 == stored(jobs)[0]["lane"]

    on(tmp_path, does)


def test_a_reply_that_was_lost_is_given_again(tmp_path: Path) -> None:
    async def does(jobs: Jobs) -> None:
        await until(jobs._runner.ready.is_set)
        lost = asyncio.create_task(jobs.submit(KEYED))
        for _ in range(3):
            await asyncio.sleep(0)
        lost.cancel()
        first, _ = await jobs.submit(KEYED)
        ended = await jobs.ended(first)
        again, replayed = await jobs.submit(KEYED)
        assert (again.id, replayed, again.state, ended.state) == (first.id, True, State.SUCCEEDED, State.SUCCEEDED)
        assert len(await jobs.listed("a", 9)) == 1

    on(tmp_path, does, at_once=1)


@pytest.mark.parametrize("other", [b'{"seed": 2}', b"y" * 70_000])
def test_another_body_is_refused(tmp_path: Path, other: bytes) -> None:
    async def does(jobs: Jobs) -> None:
        await jobs.submit(KEYED)
        with pytest.raises(KeyReused):
            await jobs.submit(replace(KEYED, body=other))
        assert (stored(jobs)[0], list((tmp_path / "results").iterdir())) == ({"lane": 1}, [])
        assert dict(jobs._runner.lanes.waiting) == {"lane": 1}

    on(tmp_path, does)


def test_a_key_is_one_callers_and_one_apps(tmp_path: Path) -> None:
    async def does(jobs: Jobs) -> None:
        asked = [KEYED, replace(KEYED, caller="b"), replace(KEYED, app="another/app")]
        assert len({(await jobs.submit(one))[0].id for one in asked}) == 3

    on(tmp_path, does)


def test_a_key_is_remembered_for_a_day(tmp_path: Path) -> None:
    clock = Clock()

    async def does(jobs: Jobs) -> None:
        first, _ = await jobs.submit(KEYED)
        clock.now += 86_399.0
        assert (await jobs.submit(KEYED))[1]
        clock.now += 1.0
        second, replayed = await jobs.submit(replace(KEYED, body=b"another"))
        assert (second.id != first.id, replayed) == (True, False)
        assert (await jobs.of("a", first.id)).id == first.id

    on(tmp_path, does, clock)


def test_a_key_outlives_the_hub(tmp_path: Path) -> None:
    ids = list[str]()

    async def does(jobs: Jobs) -> None:
        ids.append((await jobs.submit(KEYED))[0].id)

    for _ in range(2):
        on(tmp_path, does)
    assert ids[0] == ids[1]
