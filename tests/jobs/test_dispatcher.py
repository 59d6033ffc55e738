"""The loop of the queue when something else than the upstream fails: a full disk, a database that cannot be written, a run ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sensorium.jobs.dispatcher import Jobs, failure
from sensorium.jobs.requests import Requests, State
from sensorium.jobs.results import Results
from sensorium.routing.call import Call, Record, Reply, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch, Parts
from sensorium.routing.health import Health
from sensorium.routing.origin import ORIGIN
from sensorium.store.database import Database, StoreUnavailable
from tests.routing.hosted import nvidia, provider

CALL = Call("call-1", "some/film", "video", ("genai", "nvidia"), "some/film", {"prompt": msgspec.Raw(b"1")}, caller="a")


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
    work: Callable[[Jobs], Awaitable[None]],
    prepare: Callable[[Jobs], None] = lambda jobs: None,
    send: Callable[[Call, Route], Awaitable[Reply]] = drawn,
    record: Callable[[Record], None] = lambda record: None,
    now: Callable[[], float] = time.time,
) -> None:
    """Do `work` beside a queue that runs, `prepare`d before its start."""

    async def instantly(seconds: float) -> None:
        await asyncio.sleep(0)

    async def beside() -> None:
        dispatch = Dispatch(Catalog([nvidia("video", provider("http://nowhere"))]), Parts(send, record, Health(lambda: 0.0), lambda: 0.0))
        with closing(Database(folder)) as database:
            jobs = Jobs(dispatch, Requests(database, now), Results(folder), {"video": kept}, at_once=1, kept_s=1e6, sleep=instantly)
            prepare(jobs)
            loop = asyncio.create_task(jobs.run())
            try:
                async with asyncio.timeout(5):
                    await work(jobs)
            finally:
                loop.cancel()
                await asyncio.gather(loop, return_exceptions=True)

    asyncio.run(beside())


def failing(method: Callable[..., Any], error: Exception, times: int) -> Callable[..., Any]:
    """The method, that raises first."""
    left = [error] * times

    def late(*given: Any) -> Any:
        if left:
            raise left.pop()
        return method(*given)

    return late


def test_a_result_that_cannot_be_kept_ends_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(jobs: Jobs) -> None:
        ended = await jobs.ended(await jobs.submit(CALL))
        assert (ended.state, failure(ended).status) == (State.FAILED, 500)
        assert (await jobs.ended(await jobs.submit(CALL))).state is State.SUCCEEDED

    full = OSError(28, "No space left on device")
    over(tmp_path, work, lambda jobs: monkeypatch.setattr(jobs.results, "put", failing(jobs.results.put, full, 1)))


def test_an_end_that_cannot_be_written_yet_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(jobs: Jobs) -> None:
        assert (await jobs.ended(await jobs.submit(CALL))).state is State.SUCCEEDED

    over(
        tmp_path,
        work,
        lambda jobs: monkeypatch.setattr(jobs.requests, "finish", failing(jobs.requests.finish, StoreUnavailable("full"), 3)),
    )


@pytest.mark.parametrize("error", [StoreUnavailable("locked"), OSError(13, "Permission denied")])
def test_the_queue_starts_when_the_disk_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def work(jobs: Jobs) -> None:
        assert (await jobs.ended(await jobs.submit(CALL))).state is State.SUCCEEDED

    over(tmp_path, work, lambda jobs: monkeypatch.setattr(jobs.requests, "recover", failing(jobs.requests.recover, error, 2)))


def test_a_run_that_is_ended_leaves_its_record(tmp_path: Path) -> None:
    asked, told = asyncio.Event(), list[tuple[str, int]]()

    async def never(call: Call, route: Route) -> Reply:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    def record(done: Record) -> None:
        origin = ORIGIN.get()
        assert origin is not None
        origin.records.append((done, 0.0))
        origin.ended = lambda origin, status, received, sent: told.append((origin.id, status))

    async def work(jobs: Jobs) -> None:
        made = await jobs.submit(CALL)
        await asked.wait()
        await jobs.remove("a", made.id)

    over(tmp_path, work, send=never, record=record)
    assert told == [("call-1", 0)]


def test_a_deadline_counts_from_the_submission_on(tmp_path: Path) -> None:
    async def work(jobs: Jobs) -> None:
        for deadline_s, state in ((50.0, State.FAILED), (1e6, State.SUCCEEDED)):
            assert (await jobs.ended(await jobs.submit(replace(CALL, deadline_s=deadline_s)))).state is state

    seconds = count(0.0, 100.0)
    over(tmp_path, work, now=lambda: next(seconds))
