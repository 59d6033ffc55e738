"""Queues in a folder, with a clock that stands still until it is told to move, and works that do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from sensorium.errors import Cause, SensoriumError
from sensorium.jobs import runner
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.policy import Outside, Policy
from sensorium.jobs.request import Asked, Made, Request, Rules
from sensorium.jobs.requests import Requests, new_id
from sensorium.jobs.results import Results
from sensorium.jobs.run import Run, Work
from sensorium.jobs.share import Shares
from sensorium.store.database import Database
from sensorium.store.writer import Writer
from tests.store.vaults import Clock

ASKED = Asked("do", "an/app", "", "lane", "a", b"{}")
Change = Callable[[Jobs], None]


async def answered(run: Run) -> Made:
    """A work that is done at once: its result is its input."""
    return Made(run.body)


async def instantly(seconds: float) -> None:
    """Sleep."""
    await asyncio.sleep(0)


@dataclass
class Gate:
    """A work that waits for `open`; `began` are the requests that it was given, `most` how many at once."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    began: list[Request] = field(default_factory=list)
    running: int = 0
    most: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, run: Run) -> Made:
        self.began.append(run.request)
        self.running += 1
        self.most = max(self.most, self.running)
        self.came.set()
        try:
            await self.open.wait()
        finally:
            self.running -= 1
        return Made(run.body)


@dataclass
class Told:
    """What a queue told the outside."""

    ended: list[Request] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)


class Failed(SensoriumError):
    """How a run fails in a test."""

    def __init__(self, cause: Cause, retry_after: float | None = None) -> None:
        super().__init__(f"it was {cause}", retry_after=retry_after)
        self.cause = cause


def verdict(error: SensoriumError) -> Cause:
    return error.cause or "final"


@asynccontextmanager
async def queue(
    folder: Path,
    work: Work = answered,
    *,
    lanes: Lanes | None = None,
    clock: Clock | None = None,
    policy: Policy | None = None,
    shares: Shares | None = None,
    told: Told | None = None,
    prepare: Change = lambda jobs: None,
) -> AsyncIterator[Jobs]:
    """A queue that runs `work`, four at once where `lanes` says nothing else. A hang is an error after 20 s."""
    told = told or Told()
    outside = Outside(verdict, told.ended.append, told.discarded.extend, instantly)
    with closing(Database(folder)) as database, mock.patch.object(runner, "TICK_S", 0.002):
        requests = Requests(database, Writer(database), clock or Clock())
        with closing(requests):
            jobs = Jobs(requests, Results(folder), {"do": work}, lanes or Lanes(4, lambda lane: 4), outside, policy=policy, shares=shares)
            prepare(jobs)
            loop = asyncio.create_task(jobs.run())
            try:
                async with asyncio.timeout(20):
                    yield jobs
            finally:
                loop.cancel()
                await asyncio.gather(loop, return_exceptions=True)


@asynccontextmanager
async def table(folder: Path, clock: Clock | None = None) -> AsyncIterator[Requests]:
    """The table alone: nobody runs anything."""
    with closing(Database(folder)) as database, closing(Requests(database, Writer(database), clock or Clock())) as requests:
        yield requests


async def put(requests: Requests, asked: Asked = ASKED, vtag: float = 0.0, **changes: Any) -> Request:
    """A new row."""
    made, _ = await requests.submit(new_id(requests.now()), replace(asked, **changes), vtag, {})
    return made


async def claimed(requests: Requests, most: int = 1, lane: str = "lane") -> list[Request]:
    """The next of a lane, now running."""
    return [request for request, _ in await requests.claim([(lane, most)])]


async def until(holds: Callable[[], bool]) -> None:
    """Return as soon as that is so; the time-out of the queue bounds it."""
    while not holds():
        await asyncio.sleep(0.001)


def counted(jobs: Jobs) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """(waiting by lane, waiting by caller, running by lane) as the queue counts them in memory."""
    lanes = jobs._runner.lanes
    return tuple({key: count for key, count in counts.items() if count} for counts in (lanes.waiting, lanes.waiting_of, lanes.running))  # type: ignore[return-value]


def stored(jobs: Jobs) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """The same as the rows say."""
    found = []
    for column, states in (("lane", "(0, 2)"), ("caller", "(0, 2)"), ("lane", "(1)")):
        sql = f"SELECT {column}, count(*) FROM requests WHERE state IN {states} GROUP BY {column}"
        found.append(dict(jobs.requests._database.read(sql)))
    return tuple(found)  # type: ignore[return-value]


def placed(jobs: Jobs) -> dict[str, int]:
    """How many of each lane have a place."""
    return {lane: len(keys) for lane, keys in jobs._runner.places._keys.items()}


def failing(method: Callable[..., Any], *errors: Exception) -> Callable[..., Any]:
    """The method, that raises these first, one at a call."""
    left = list(errors)

    def late(*given: Any, **named: Any) -> Any:
        if left:
            raise left.pop(0)
        return method(*given, **named)

    return late


def unkept(asked: Asked = ASKED) -> Asked:
    """The same, its payload not to be kept."""
    return replace(asked, rules=Rules(kept=False))
