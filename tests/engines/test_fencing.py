"""Attempts of the hub's queue at an engine: a late one is refused, a later one ends the one that runs, and one runs at a time."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from sensorium.engines.fencing import ATTEMPT, REQUEST, Fence, StaleAttempt
from sensorium.engines.lane import Lane
from sensorium.errors import BadRequest
from tests.engines.asgi import PATIENCE, Call, ask
from tests.engines.test_endpoint import AUTH, CHAT, QUESTION, Script, frames, run, serve


def attempt(number: int | str, request: str = "r-1") -> dict[str, str]:
    return {**AUTH, REQUEST: request, ATTEMPT: str(number)}


def test_a_delayed_attempt_is_refused_and_never_reaches_the_model() -> None:
    async def test() -> None:
        model = Script("x")
        app = serve(model)
        assert (await ask(app, "POST", CHAT, QUESTION, attempt(2)))[0].status == 200
        head, body = await ask(app, "POST", CHAT, QUESTION, attempt(1))
        assert (head.status, json.loads(body)["error"]["code"]) == (409, "stale_attempt")
        assert len(model.asked) == 1
        for again in (attempt(2), attempt(3), attempt(1, "r-2"), AUTH):  # the same run again, a later one, another request, nobody's
            assert (await ask(app, "POST", CHAT, QUESTION, again))[0].status == 200

    run(test())


@pytest.mark.parametrize("stream", [False, True])
def test_a_later_attempt_ends_the_one_that_runs(stream: bool) -> None:
    async def test() -> None:
        model, lane = Script("one", "two", "three"), Lane("cpu")
        model.go = threading.Semaphore(1)
        app, body = serve(model, lane=lane), QUESTION | {"stream": stream}
        older = Call(app, "POST", CHAT, body, attempt(1))
        while model.made == 0:
            await asyncio.sleep(0)
        newer = Call(app, "POST", CHAT, body, attempt(2))
        assert (await older.begun()).status == (200 if stream else 409)
        data = await older.rest()
        told = frames(data)[-1] if stream else json.loads(data)
        assert told["error"]["code"] == "stale_attempt"
        for _ in range(4):
            model.go.release()
        assert (await newer.begun()).status == 200
        await newer.rest()
        assert (lane.counters.finished, lane.counters.cancelled) == (1, 1)

    run(test())


@pytest.mark.parametrize("number", ["", "-1", "1.5", "x", "9" * 20, "²"])
def test_an_attempt_that_is_no_number_is_told(number: str) -> None:
    async def test() -> None:
        with pytest.raises(BadRequest, match=ATTEMPT):
            async with Fence().held("r", number):
                raise AssertionError

    run(test())


def test_calls_of_one_attempt_run_beside_each_other_and_all_end_for_a_later_one() -> None:
    async def test() -> None:
        fence, log, entered = Fence(), list[str](), asyncio.Semaphore(0)

        async def work(number: int) -> None:
            async with fence.held("r", str(number)):
                log.append(f"begins {number}")
                entered.release()
                try:
                    if number == 1:
                        await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0)  # giving up takes its time
                    log.append(f"ends {number}")

        older: list[asyncio.Task[Any]] = [asyncio.create_task(work(1)) for _ in range(2)]
        for _ in older:
            await entered.acquire()
        await work(2)
        assert log == ["begins 1", "begins 1", "ends 1", "ends 1", "begins 2", "ends 2"]
        assert [type(error) for error in await asyncio.gather(*older, return_exceptions=True)] == [StaleAttempt] * 2

    run(test())


def test_whoever_is_ended_from_outside_is_not_called_stale() -> None:
    async def test() -> None:
        fence, begun = Fence(), asyncio.Event()

        async def work() -> None:
            async with fence.held("r", "1"):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with fence.held("r", "1"):
                raise TimeoutError
        async with asyncio.timeout(PATIENCE), fence.held("r", "2"):
            assert fence._running.keys() == {"r"}
        assert not fence._running

    run(test())


def test_no_more_ids_are_remembered_than_that() -> None:
    async def test() -> None:
        fence = Fence(remembered=2)
        for request in ("a", "b", "a", "c"):
            async with fence.held(request, "5"):
                pass
        async with fence.held("b", "1"):  # forgotten
            pass
        with pytest.raises(StaleAttempt):
            async with fence.held("c", "1"):
                raise AssertionError

    run(test())
