"""The queue at work: claim, run, settle, and what comes with time.

A hub that stops gives its running requests back; one that died is cleaned up after by `Requests.recover`. The lock on the data folder is
the lease: whoever holds it is the only one that runs anything, so that what another start was running is nobody's (jobs.md, section 3).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from sensorium import failpoints
from sensorium.errors import Cause, SensoriumError
from sensorium.jobs import endings
from sensorium.jobs.again import MOST_RUNS, Again, after
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.logs import Line, Log
from sensorium.jobs.positions import Positions
from sensorium.jobs.request import Made, Request, State
from sensorium.jobs.requests import Requests
from sensorium.jobs.results import Results, input_name
from sensorium.jobs.rows import INLINE
from sensorium.jobs.run import Run, Work
from sensorium.jobs.share import Shares
from sensorium.jobs.watch import Watch
from sensorium.routing.origin import ORIGIN, Origin
from sensorium.routing.resume import Resumption, under_resumption
from sensorium.routing.terms import restored, under
from sensorium.store.database import StoreUnavailable

log = logging.getLogger("sensorium.jobs")

TICK_S, SLOW_TICK_S = 0.25, 30.0
EXPIRE_EVERY_S = 3600.0
STORE_RETRY_S = 2.0
CANCEL_S = 5.0  # that a run may take to end when it is cancelled
UNKEPT_S = 86_400.0  # how long the output of a request that is not to be kept stays, at most


def unheard(request: Request) -> None:
    """Nobody needs to know that a request has ended."""


def unkept(keys: Sequence[str]) -> None:
    """There are no files to take back."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator set: how many may wait (in all, and of some callers), how long payloads, logs and unserved requests are kept, in
    seconds, and after how many a low priority counts as normal (None: never)."""

    most_waiting: int = 100_000
    most_waiting_of: Mapping[str, int] = field(default_factory=dict)
    kept_s: float = 30 * 86_400.0
    log_s: float = 7 * 86_400.0
    unserved_s: float = 3600.0
    low_max_wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """What a runner works with outside the queue: `verdict` tells how a run failed, `ended` hears of every request with a webhook that is
    over, `discard` takes back files of runs that do not count, `sleep` waits, in seconds, while the disk cannot be used."""

    verdict: Callable[[SensoriumError], Cause]
    ended: Callable[[Request], None] = unheard
    discard: Callable[[Sequence[str]], None] = unkept
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class RunTimedOut(SensoriumError):
    """A run took longer than it may."""

    code, status = "request_timeout", 504


class Runner:
    """Runs what waits. `works` do what requests ask for, by the name that a submission gives. `ready` is set once it has cleaned up after
    the last hub; `running` are the runs under way."""

    def __init__(
        self,
        requests: Requests,
        results: Results,
        works: Mapping[str, Work],
        lanes: Lanes,
        policy: Policy,
        outside: Outside,
        shares: Shares,
    ) -> None:
        self.requests, self.results, self.lanes, self.shares, self.policy = requests, results, lanes, shares, policy
        self._works, self._outside = works, outside
        self.watch = Watch(self.requests.of)
        self.positions = Positions(lambda lane: lanes.waiting[lane], self.requests.between, self.requests.sampled, self.requests.now)
        self.running: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self.ready = asyncio.Event()
        self._wake = asyncio.Event()
        self._beside: set[asyncio.Task[Any]] = set()
        self._unsettled: set[asyncio.Task[None]] = set()
        self._early: set[str] = set()
        self._stopping = False
        self._tidied = self._slow = -EXPIRE_EVERY_S

    def came(self, request: Request) -> None:
        """One more waits."""
        self.lanes.came(request.lane, request.caller)
        self.watch.put(request)
        self._wake.set()

    def left(self, request: Request) -> None:
        """One that waited is over."""
        self.lanes.came(request.lane, request.caller, -1)
        self.over(request)

    async def run(self) -> None:
        """Until cancelled. Running requests are then given back."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self._step()
                except (StoreUnavailable, OSError) as error:
                    log.warning("the queue stands still: %s", _said(error))
                    await self._outside.sleep(STORE_RETRY_S)
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._wake.wait()
        finally:
            await self._drain()

    def end(self, id: str) -> None:
        """Have a run end that its caller wants no more."""
        if id not in self.running:
            self._early.add(id)  # it is claimed, and begins in a moment
            return
        run, task = self.running[id]
        run.cancelled = True
        asyncio.get_running_loop().call_soon(task.cancel)  # a task that has not begun would not even clean up
        self._do(self._insist(run, task))

    async def _drain(self) -> None:
        self._stopping = True
        await asyncio.sleep(0)  # a task that has not begun would not even clean up
        running = list(self.running.values())
        for run, task in running:
            run.detached = True
            task.cancel()
        for beside in self._beside:
            beside.cancel()
        await asyncio.gather(*(task for _, task in running), *self._beside, return_exceptions=True)
        await asyncio.gather(*self._unsettled, return_exceptions=True)

    async def _step(self) -> None:
        if not self.ready.is_set():
            await self._begin()
        await self.tick()
        free = self.lanes.free(self.requests.now())
        for request, body in await self.requests.claim(free, self.lanes.caps()) if free else ():
            failpoints.reach("claimed")
            self.lanes.began(request)
            self.shares.claimed(request.lane, request.vtag)
            self.watch.put(request)
            earlier = [] if request.attempt == 1 else await asyncio.to_thread(self.requests.lines, request.id)
            run = Run(
                request,
                body or b"",
                Log(request.attempt, earlier),
                self.requests.now,
                self.requests.keep,
                self._write_lines,
                self.watch.wake,
            )
            self.running[request.id] = run, asyncio.create_task(self._run(run, body is None))
            if request.id in self._early:
                self._early.discard(request.id)
                self.end(request.id)

    async def tick(self) -> None:
        """What comes with time: delayed requests, deadlines, what nobody serves, and what has been kept long enough."""
        now = self.requests.now()
        low = self.policy.low_max_wait_s is not None and now - self._slow >= SLOW_TICK_S
        if self.requests.anything_due(low):
            ready, late = await self.requests.due(self.policy.low_max_wait_s if low else None)
            for request in ready:
                self.watch.put(request)
            for request in late:
                self.left(request)
        for lane in self.positions.stale(self.lanes.waiting):
            self._do(asyncio.to_thread(self.positions.build, lane))
        if now - self._slow >= SLOW_TICK_S:
            self._slow = now
            await self._recover(self.running)
            for lane in self.lanes.unready() if self.policy.unserved_s else ():
                ids = await asyncio.to_thread(self.requests.unserved, lane, now - self.policy.unserved_s)
                for request in await self.requests.fail(ids, endings.UNSERVED):
                    self.left(request)
        if now - self._tidied >= EXPIRE_EVERY_S:
            self._tidied = now
            self._do(self._expire())

    async def _recover(self, running: Collection[str]) -> None:
        """Clean up after runs that are none: all but those that go on here."""
        for request in await self.requests.recover(self.results.spooled, MOST_RUNS, self.policy.kept_s, running):
            self.watch.put(request)
            if request.waits and self.ready.is_set():
                self.came(request)

    async def _begin(self) -> None:
        await self._recover(())
        for lane, caller, count, least, most in await asyncio.to_thread(self.requests.waiting):
            self.lanes.came(lane, caller, count)
            self.shares.begins(lane, least)
            self.shares.waits(lane, caller, most)
        known = await asyncio.to_thread(self.requests.ids)
        await asyncio.to_thread(self.results.sweep, known | {input_name(id) for id in known})
        self.ready.set()

    async def _expire(self) -> None:
        while gone := await self.requests.expire(self.policy.log_s):
            await asyncio.to_thread(self.results.remove, [name for id in gone for name in (id, input_name(id))])
            for id in gone:
                self.watch.forget(id)

    async def _run(self, run: Run, filed: bool) -> None:
        request, settling = run.request, list[asyncio.Task[None]]()
        origin = Origin(
            request.call.get("id", request.id), request.call.get("attribution", {}), request.call.get("door", ""), request.caller
        )
        ORIGIN.set(origin)  # of this task alone
        try:
            if filed:
                found = await asyncio.to_thread(self.results.get, input_name(request.id))
                run.body = found or b""
            with under(restored(request.call.get("terms"), (request.id, request.attempt))), under_resumption(_hosted(run)):
                made = await self._outcome(run)
            origin.end(made.status, len(run.body), len(made.body) if isinstance(made, Made) else 0)
            settling.append(self._settling(lambda: self._settle(run, made)))
            await asyncio.shield(settling[0])
        except asyncio.CancelledError:
            origin.end(0, len(run.body), 0)
            if not settling:  # what was whole before it was wanted no more stays as it is
                settling.append(self._settling(lambda: self._stopped(run)))
            await asyncio.shield(settling[0])
            raise
        finally:
            del self.running[request.id]
            self.lanes.stopped(request)
            self.watch.wake(request.id)
            self._wake.set()

    def _settling(self, write: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Write down how a run ended, whatever becomes of its task, and however long the database cannot be written: until then whoever
        waits goes on waiting."""

        async def written() -> None:
            while True:
                try:
                    return await write()
                except (StoreUnavailable, OSError) as error:
                    if self._stopping:  # the next start finds it running, and cleans up
                        return
                    log.warning("a request ended, and that cannot be written yet: %s", _said(error))
                    await self._outside.sleep(STORE_RETRY_S)

        task = asyncio.create_task(written())
        self._unsettled.add(task)
        task.add_done_callback(self._unsettled.discard)
        return task

    async def _stopped(self, run: Run) -> None:
        """The run was cancelled: by its caller, or because the hub stops."""
        if run.cancelled:
            await self._finish(run, State.CANCELLED, endings.CANCELLED)
        else:
            await self._delayed(run, Again(0.0, run=0), "given back")

    async def _outcome(self, run: Run) -> Made | SensoriumError:
        try:
            async with asyncio.timeout(run.request.rules.run_s):
                return await self._works[run.request.work](run)
        except TimeoutError:
            return RunTimedOut(f"the run took longer than {run.request.rules.run_s:g} seconds")
        except SensoriumError as error:
            return error
        except Exception as error:  # outermost line of a run: whatever it ends in is what its caller is told
            log.exception("request %s failed: %s", run.request.id, type(error).__name__)
            return SensoriumError(f"the hub failed on this request; its log names it {run.request.id}")

    async def _settle(self, run: Run, made: Made | SensoriumError) -> None:
        """Another run, or the end."""
        request, now = run.request, self.requests.now()
        if isinstance(made, Made):
            took = now - (request.claimed_at or now)
            if made.status == 200:
                self.shares.ran(request.lane, took)
            told = {"inference_time": round(took, 6), **made.told}
            await self._finish(run, State.SUCCEEDED if made.status == 200 else State.FAILED, replace(made, told=told))
            return
        verdict = "timeout" if isinstance(made, RunTimedOut) else self._outside.verdict(made)
        again = after(verdict, request, random.random(), made.retry_after, now)
        if again is None:
            await self._finish(run, State.FAILED, endings.failed(made, verdict, request.id))
            return
        run.log(f"attempt {request.attempt} ended: {made.message}; it is tried again in {again.delay_s:.1f} s", "WARN")
        await self._delayed(run, again, verdict)

    async def _delayed(self, run: Run, again: Again, outcome: str) -> None:
        request, until = run.request, self.requests.now() + again.delay_s
        if again.cools:
            self.lanes.cool(request.lane, until)
        waiting = await self.requests.delay(request, until, outcome, await run.last_lines(), run=again.run, death=again.death)
        if waiting is not None:
            self.came(waiting)

    async def _finish(self, run: Run, state: State, made: Made) -> None:
        request, kept_s = run.request, self.policy.kept_s if run.request.rules.kept else UNKEPT_S
        filed = len(made.body) > INLINE
        if filed or (run.handle and state is not State.CANCELLED):
            try:
                await asyncio.to_thread(self.results.spool, request, made)
            except OSError as error:
                log.warning("the result of request %s cannot be kept: %s", request.id, error.strerror)
                await asyncio.to_thread(self._outside.discard, made.files)
                state, made, filed = State.FAILED, endings.failed(SensoriumError("the result cannot be kept"), "final", request.id), False
        over = await self.requests.finish(request, state, made, await run.last_lines(), kept_s)
        failpoints.reach("finish_committed")
        if over is None:
            await asyncio.to_thread(self._outside.discard, made.files)
            return
        if filed or run.handle:
            await asyncio.to_thread(self.results.unspool, request, filed)
        self.over(over)

    async def _insist(self, run: Run, task: asyncio.Task[None]) -> None:
        """End a request that was cancelled and whose run does not let go."""
        done, _ = await asyncio.wait({task}, timeout=CANCEL_S)
        if not done:
            await self._settling(lambda: self._finish(run, State.CANCELLED, endings.CANCELLED))

    async def _write_lines(self, request: Request, lines: list[Line]) -> None:
        with suppress(StoreUnavailable):  # they are read from memory, and the end tries again what comes then
            await self.requests.write_lines(request, lines)

    def over(self, request: Request) -> None:
        """It has ended."""
        self.watch.put(request)
        if request.webhook_url is not None:
            self._outside.ended(request)

    def _do(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)


def _hosted(run: Run) -> Resumption:
    """What a run has begun at providers, kept with its request."""
    return Resumption(run.handle, run.keep, run.log, lambda: run.detached)


def _said(error: StoreUnavailable | OSError) -> str:
    return error.message if isinstance(error, StoreUnavailable) else f"its files cannot be used: {error.strerror}"
