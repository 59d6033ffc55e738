"""When a stuck device ends its process: on a clock that nothing waits for, and once in a real process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sensorium.engines import supervisor
from sensorium.engines.lane import Cancelling, Lane
from sensorium.engines.supervisor import EngineProcess
from sensorium.engines.watchdog import FIRST_S, LET_GO_S, Watchdog, stack
from sensorium.errors import Unavailable
from tests.engines.flow_image import tiny

PATIENCE = 30.0
ROOT = Path(__file__).parents[2]
CUBE = {"prompt": "a red cube on a white table", "seed": 5, "steps": 2}
HANGS = 666


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Device:
    """A lane as the watchdog sees it."""

    name: str = "cuda:0"
    busy_since: float | None = None
    abandoned_since: float | None = None
    longest_s: float = 1.0
    lost_since: float | None = None
    thread: int | None = None


def reason(device: Device, now: float, hang_s: float | None = None) -> str | None:
    return Watchdog(lambda: [Device(), device], hang_s, lambda reason: None, lambda: now).look()


@pytest.mark.parametrize(
    ("device", "hang_s", "stuck"),
    [
        (Device(), 5.0, None),
        (Device(busy_since=96), 5.0, None),
        (Device(busy_since=95), 5.0, None),
        (Device(busy_since=94.9), 5.0, "one piece of work for 5.1 seconds; 5 are allowed"),
        (Device(busy_since=0), None, None),
        # told to stop: ten seconds, or twice the longest piece of work that went well
        (Device(busy_since=89, abandoned_since=91), None, None),
        (Device(busy_since=89, abandoned_since=89), None, "did not let go for 11.0 seconds"),
        (Device(busy_since=99, abandoned_since=89), None, "did not let go for 11.0 seconds"),
        (Device(busy_since=80, abandoned_since=80, longest_s=12), None, None),
        (Device(busy_since=60, abandoned_since=60, longest_s=12), None, "did not let go for 40.0 seconds"),
        # nobody knows yet how long a piece takes here
        (Device(busy_since=60, abandoned_since=60, longest_s=0), None, None),
        (Device(busy_since=100 - FIRST_S - 1, abandoned_since=100 - FIRST_S - 1, longest_s=0), None, "did not let go"),
        (Device(busy_since=None, abandoned_since=0), 5.0, None),
        # lost: once callers have been told
        (Device(lost_since=99.5), None, None),
        (Device(lost_since=99), None, "the device cuda:0 is lost to this process"),
    ],
)
def test_what_counts_as_stuck(device: Device, hang_s: float | None, stuck: str | None) -> None:
    found = reason(device, 100.0, hang_s)
    assert (found is None) == (stuck is None)
    assert stuck is None or (found is not None and stuck in found and "cuda:0" in found)


class Work:
    """A job that goes on when told to, and asks whether it is cancelled when told to."""

    def __init__(self) -> None:
        self.begun, self.go, self.asked, self.ask = threading.Event(), threading.Event(), threading.Event(), threading.Event()

    def __call__(self, cancelled: Cancelling) -> Iterator[int]:
        self.begun.set()
        assert self.ask.wait(PATIENCE)
        cancelled()
        self.asked.set()
        assert self.go.wait(PATIENCE)
        yield 1


def test_a_lane_tells_when_its_job_last_lived_and_since_when_nobody_wants_it() -> None:
    async def test() -> None:
        clock = Clock()
        lane, work = Lane("cpu", clock=clock), Work()
        assert (lane.busy_since, lane.abandoned_since, lane.thread) == (None, None, None)
        with lane.admitted() as turn:
            waiting = asyncio.create_task(_all(turn.stream(work)))
            assert await asyncio.to_thread(work.begun.wait, PATIENCE)
            assert (lane.busy_since, lane.longest_s) == (1000, 0)
            clock.now = 1007
            work.ask.set()
            assert await asyncio.to_thread(work.asked.wait, PATIENCE)
            assert (lane.busy_since, lane.longest_s) == (1007, 0), "the first job of all may still compile"
            assert "assert self.go.wait(PATIENCE)" in stack(lane.thread)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            assert lane.abandoned_since == 1007
            clock.now = 1009
            work.go.set()
            assert await lane.run(lambda cancelled: 5) == 5
            assert (lane.busy_since, lane.abandoned_since, lane.longest_s) == (None, None, 7)
        assert lane.close(PATIENCE)
        assert "ended" in stack(lane.thread)

    asyncio.run(asyncio.wait_for(test(), 2 * PATIENCE))


def test_a_question_that_comes_when_the_job_is_over_is_no_sign_of_work() -> None:
    async def test() -> None:
        lane, kept = Lane("cpu", clock=Clock()), list[Cancelling]()
        await lane.run(kept.append)
        kept[0]()
        assert lane.busy_since is None
        lane.close()

    asyncio.run(asyncio.wait_for(test(), PATIENCE))


async def _all(items: Any) -> list[int]:
    async with aclosing(items):
        return [item async for item in items]


def test_an_errand_waits_for_the_job_and_goes_before_those_that_wait() -> None:
    async def test() -> None:
        lane, work, order = Lane("cpu", limit=1), Work(), list[str]()
        with lane.admitted() as turn:
            first = asyncio.create_task(_all(turn.stream(work)))
            assert await asyncio.to_thread(work.begun.wait, PATIENCE)
            second = asyncio.create_task(lane.run(lambda cancelled: order.append("job")))
            while not lane.counters.waiting:
                await asyncio.sleep(0)
            errand = asyncio.create_task(lane.alone(lambda: order.append("errand")))
            await asyncio.sleep(0)
            work.ask.set()
            work.go.set()
            await asyncio.gather(first, second, errand)
        assert order == ["errand", "job"]
        assert (lane.counters.finished, lane.counters.waiting) == (2, 0)
        with pytest.raises(ZeroDivisionError):
            await lane.alone(lambda: 1 // 0)
        lane.close()
        with pytest.raises(Unavailable):
            await lane.alone(lambda: None)

    asyncio.run(asyncio.wait_for(test(), 2 * PATIENCE))


def test_closing_a_lane_that_is_stuck_does_not_wait_for_ever() -> None:
    async def test() -> None:
        lane, work = Lane("cpu"), Work()
        with lane.admitted() as turn:
            waiting = asyncio.create_task(_all(turn.stream(work)))
            assert await asyncio.to_thread(work.begun.wait, PATIENCE)
            assert not lane.close(0.01)
            work.ask.set()
            work.go.set()
            with pytest.raises(Unavailable, match="shutting down"):
                await waiting
        assert lane.close(PATIENCE)

    asyncio.run(asyncio.wait_for(test(), 2 * PATIENCE))


# A real engine, but for one thing: its model never comes back from drawing with a certain seed.
HANGING = f"""
import threading
from sensorium.engines import server
from sensorium.engines.flow_image import engine

steps = engine.FlowImage.steps

def hanging(self, wish, *more):
    if wish.seed == {HANGS}:
        threading.Event().wait()
    yield from steps(self, wish, *more)

engine.FlowImage.steps = hanging
server.main()
"""


async def _draw(engine: EngineProcess, session: aiohttp.ClientSession, seed: int) -> int:
    headers = {"authorization": f"Bearer {engine.token}"}
    async with session.post(f"{engine.base_url}/v1/genai/sensorium/tiny-flow", json=CUBE | {"seed": seed}, headers=headers) as reply:
        return reply.status


def test_a_model_that_hangs_costs_its_process_and_the_next_one_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "COMMAND", ("-P", "-c", HANGING))
    folder, log = tiny.write(tmp_path / "tiny-flow"), tmp_path / "engine.log"
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}

    async def test() -> None:
        async with EngineProcess("local", [folder], environment=here, log=log, hang_s=4.0) as engine, aiohttp.ClientSession() as session:
            assert await _draw(engine, session, 1) == 200
            first = engine.pid
            with pytest.raises(aiohttp.ClientError):
                await _draw(engine, session, HANGS)
            assert await _draw(engine, session, 1) == 200
            assert engine.restarts == 1
            assert engine.pid not in (None, first)
        said = log.read_text("utf-8")
        assert "the device cpu has been at one piece of work" in said
        assert "in hanging" in said  # where it was

    asyncio.run(asyncio.wait_for(test(), 4 * PATIENCE))


def test_who_ends_the_process_is_told_why() -> None:
    told, done = list[str](), threading.Event()

    def end(reason: str) -> None:
        told.append(reason)
        done.set()

    clock: Callable[[], float] = lambda: LET_GO_S + 2.0  # noqa: E731
    Watchdog(lambda: [Device(busy_since=0.0, abandoned_since=0.0)], None, end, clock).start()
    assert done.wait(PATIENCE)
    assert "did not let go" in told[0]


def test_a_process_that_stood_still_is_no_stuck_device() -> None:
    """A computer that slept, a container that was paused: an hour passes between two looks. A device that then hangs is found as ever."""
    clock, told = Clock(), list[str]()
    leaps = iter([3600.0])

    def pause() -> None:
        clock.now += next(leaps, 0.5)

    watchdog = Watchdog(lambda: [Device(busy_since=999.0, abandoned_since=999.0)], 30.0, told.append, clock, pause)
    watchdog.watch()
    assert "did not let go for 10.5 seconds" in told[0]
    assert clock.now == 1000 + 3600 + 10.5


def test_a_thread_that_dies_is_found_like_one_that_is_stuck() -> None:
    class Broken(Lane):
        def _work(self) -> None:
            super()._work()
            raise SystemExit

    async def test() -> None:
        clock = Clock()
        lane = Broken("cuda:7", clock=clock)
        assert await lane.run(lambda cancelled: 1) == 1
        lane.close()
        clock.now += 31
        assert "cuda:7" in (Watchdog(lambda: [lane], 30.0, lambda reason: None, clock).look() or "")

    asyncio.run(asyncio.wait_for(test(), PATIENCE))
