"""Calls of a door as requests of the queue: their deadline, their record, and what comes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from sensorium.jobs.calls import CallWork, asked
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.request import Asked, State
from sensorium.routing.call import Call, Record, Reply, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch, Parts
from sensorium.routing.health import Health
from sensorium.routing.origin import ORIGIN
from tests.jobs.queues import queue, until
from tests.routing.hosted import nvidia, provider
from tests.store.vaults import Clock

CALL = Call("call-1", "some/film", "video", ("genai", "nvidia"), "some/film", {"prompt": msgspec.Raw(b"1")}, caller="a")
Send = Callable[[Call, Route], Awaitable[Reply]]


class Steps(Clock):
    """A clock that is 100 s further at every look."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = count(self.now, 100.0)

    def __call__(self) -> float:
        return next(self._seconds)


async def film() -> AsyncIterator[bytes]:
    yield b'{"artifacts": [{"base64": "AAAAEGZ0eXBpc29t"}]}'


async def nothing() -> None:
    """Nothing is open."""


async def drawn(call: Call, route: Route) -> Reply:
    return Reply(200, {"content-type": "application/json"}, film(), nothing, route)


async def kept(reply: Reply) -> tuple[bytes, dict[str, Any]]:
    return await reply.whole(), {"headers": {}}


def over(
    folder: Path,
    does: Callable[[Jobs, Callable[[Call], Asked]], Awaitable[None]],
    send: Send = drawn,
    record: Callable[[Record], None] = lambda record: None,
    clock: Clock | None = None,
) -> None:
    """Do something beside a queue that runs calls through `send`."""
    dispatch = Dispatch(Catalog([nvidia("video", provider("http://nowhere"))]), Parts(send, record, Health(lambda: 0.0), lambda: 0.0))

    async def beside() -> None:
        async with queue(folder, CallWork(dispatch, {"video": kept}), clock=clock) as jobs:
            await does(jobs, lambda call: replace(asked(call, dispatch, {}), work="do"))

    asyncio.run(beside())


def test_a_reply_is_kept(tmp_path: Path) -> None:
    async def does(jobs: Jobs, ask: Callable[[Call], Asked]) -> None:
        ended = await jobs.ended((await jobs.submit(ask(CALL)))[0])
        assert (ended.state, ended.app, ended.lane, ended.told["headers"]) == (State.SUCCEEDED, "video", "some/film", {})
        assert b"AAAAEGZ0eXBpc29t" in (await jobs.output(ended) or b"")

    over(tmp_path, does)


def test_a_deadline_counts_from_the_submission_on(tmp_path: Path) -> None:
    async def does(jobs: Jobs, ask: Callable[[Call], Asked]) -> None:
        for deadline_s, state in ((50.0, State.FAILED), (1e6, State.SUCCEEDED)):
            assert (await jobs.ended((await jobs.submit(ask(replace(CALL, deadline_s=deadline_s))))[0])).state is state

    over(tmp_path, does, clock=Steps())


def test_a_run_that_is_ended_leaves_its_record(tmp_path: Path) -> None:
    begun, told = asyncio.Event(), list[tuple[str, int]]()

    async def never(call: Call, route: Route) -> Reply:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    def record(done: Record) -> None:
        origin = ORIGIN.get()
        assert origin is not None
        origin.records.append((done, 0.0))
        origin.ended = lambda origin, status, received, sent: told.append((origin.id, status))

    async def does(jobs: Jobs, ask: Callable[[Call], Asked]) -> None:
        made, _ = await jobs.submit(ask(CALL))
        await begun.wait()
        await jobs.remove("a", made.id)
        await until(lambda: not jobs._runner.running)

    over(tmp_path, does, never, record)
    assert told == [("call-1", 0)]
