"""How runs end: another run, or the end of the request. Written down once, whatever becomes of the run's task, and however long the
database cannot be written: until then whoever waits goes on waiting."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from sensorium import failpoints
from sensorium.errors import SensoriumError
from sensorium.jobs import endings
from sensorium.jobs.again import Again, after, kept
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.policy import Outside
from sensorium.jobs.request import Made, Request, State
from sensorium.jobs.requests import Requests
from sensorium.jobs.results import Results
from sensorium.jobs.rows import INLINE
from sensorium.jobs.run import Run
from sensorium.jobs.share import Shares
from sensorium.store.database import StoreUnavailable

log = logging.getLogger("sensorium.jobs")

STORE_RETRY_S = 2.0
T = TypeVar("T")


class RunTimedOut(SensoriumError):
    """A run took longer than it may."""

    code, status = "request_timeout", 504


class Settling:
    """Writes down how runs end. `came` is told of a request that waits again, `over` of one that is over; `repeated` counts the former by
    how their runs ended."""

    def __init__(
        self,
        requests: Requests,
        results: Results,
        lanes: Lanes,
        shares: Shares,
        outside: Outside,
        kept_s: float,
        came: Callable[[Request], None],
        over: Callable[[Request], None],
    ) -> None:
        self._requests, self._results, self._lanes, self._shares = requests, results, lanes, shares
        self._outside, self._kept_s, self._came, self._over = outside, kept_s, came, over
        self.repeated = Counter[str]()
        self._unsettled: set[asyncio.Task[None]] = set()
        self._stopping = False

    def ended(self, run: Run, made: Made | SensoriumError) -> asyncio.Task[None]:
        """The run ended in this: another run, or the end."""
        request, now = run.request, self._requests.now()
        if isinstance(made, Made):
            took = now - (request.claimed_at or now)
            if made.status == 200:
                self._shares.ran(request.lane, took)
            told = {"inference_time": round(took, 6), **made.told}
            return self._settled(run, self._finish(run, State.SUCCEEDED if made.status == 200 else State.FAILED, replace(made, told=told)))
        verdict = "timeout" if isinstance(made, RunTimedOut) else self._outside.verdict(made)
        again = after(verdict, request, random.random(), made.retry_after, now)
        if again is None:
            return self._settled(run, self._finish(run, State.FAILED, endings.failed(made, verdict, request.id)))
        run.log(f"attempt {request.attempt} ended: {made.message}; it is tried again in {again.delay_s:.1f} s", "WARN")
        return self._settled(run, self._delay(run, again, verdict))

    def stopped(self, run: Run) -> asyncio.Task[None]:
        """The run was cancelled: by its caller, or because the hub stops."""
        if run.cancelled:
            return self._settled(run, self._finish(run, State.CANCELLED, endings.CANCELLED))
        return self._settled(run, self._delay(run, Again(0.0, run=0), "given back"))

    async def stop(self) -> None:
        """Write what can be written now. Of the rest the next start cleans up."""
        self._stopping = True
        while self._unsettled:
            await asyncio.wait(self._unsettled)

    def _settled(self, run: Run, write: Awaitable[None]) -> asyncio.Task[None]:
        async def written() -> None:
            try:
                await write
            except StoreUnavailable as error:
                log.warning("the end of a run of request %s is left to the next start: %s", run.request.id, error.message)

        task = asyncio.create_task(written())
        self._unsettled.add(task)
        task.add_done_callback(self._unsettled.discard)
        return task

    async def _insisting(self, write: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await write()
            except StoreUnavailable as error:
                if self._stopping:
                    raise
                log.warning("a run ended, and that cannot be written yet: %s", error.message)
                await self._outside.sleep(STORE_RETRY_S)

    async def _delay(self, run: Run, again: Again, outcome: str) -> None:
        request, until = run.request, self._requests.now() + again.delay_s
        if again.cools:
            self._lanes.cool(request.lane, until)
        lines, counts = await run.last_lines(), {"run": again.run, "death": again.death}
        told = kept(request, outcome, again, self._requests.now())
        left = await self._insisting(lambda: self._requests.delay(request, until, outcome, lines, self._kept_s, told=told, **counts))
        run.lines.close()
        if left is not None:
            self.repeated[outcome] += not left.done
            (self._over if left.done else self._came)(left)

    async def _finish(self, run: Run, state: State, made: Made) -> None:
        request, filed = run.request, len(made.body) > INLINE
        spooled = filed or (bool(run.handle) and state is not State.CANCELLED)
        if spooled and not await self._spool(request, made):
            await self.discard(made.files)
            state, made, filed = State.FAILED, endings.failed(SensoriumError("the result cannot be kept"), "final", request.id), False
        lines = await run.last_lines()
        over = await self._insisting(lambda: self._requests.finish(request, state, made, lines, self._kept_s))
        failpoints.reach("finish_committed")
        run.lines.close()
        if over is not None:
            self._over(over)
        else:  # cancelled or removed meanwhile: what came of the run does not count
            await self.discard(made.files)
        if spooled:
            await self._unspool(request, filed and over is not None)

    async def _spool(self, request: Request, made: Made) -> bool:
        try:
            await asyncio.to_thread(self._results.spool, request, made)
        except OSError as error:
            log.warning("the result of request %s cannot be kept: %s", request.id, error.strerror)
            return False
        return True

    async def _unspool(self, request: Request, filed: bool) -> None:
        try:
            await asyncio.to_thread(self._results.unspool, request, filed)
        except OSError as error:  # the next start sweeps
            log.warning("files of request %s cannot be deleted: %s", request.id, error.strerror)

    async def discard(self, keys: Sequence[str] = ()) -> None:
        """Delete these files, and those that are marked. What cannot be deleted now is left to the sweep."""
        try:
            await asyncio.to_thread(self._outside.discard, keys)
        except (StoreUnavailable, OSError):
            log.warning("files of a run that does not count cannot be deleted: %s", ", ".join(keys))
