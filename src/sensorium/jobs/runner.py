"""The queue at work: claim, run, and what comes with time. How runs end is `settling`'s.

A hub that stops gives its running requests back; one that died is cleaned up after by `Requests.recover`. The lock on the data folder is
the lease: whoever holds it is the only one that runs anything, so that what another start was running is nobody's (jobs.md, section 3).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sensorium import failpoints
from sensorium.errors import SensoriumError
from sensorium.jobs import endings
from sensorium.jobs.again import MOST_RUNS
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.logs import Line, Log
from sensorium.jobs.places import Places
from sensorium.jobs.policy import Outside, Policy
from sensorium.jobs.request import LOW, Made, Request
from sensorium.jobs.requests import BATCH, Requests
from sensorium.jobs.results import Results, input_name
from sensorium.jobs.run import Run, Work
from sensorium.jobs.settling import STORE_RETRY_S, RunTimedOut, Settling
from sensorium.jobs.share import Shares
from sensorium.jobs.watch import Watch
from sensorium.routing.origin import ORIGIN, Origin
from sensorium.routing.resume import Resumption, under_resumption
from sensorium.routing.terms import restored, under
from sensorium.store.database import StoreUnavailable

log = logging.getLogger("sensorium.jobs")

TICK_S, SLOW_TICK_S = 0.25, 30.0
EXPIRE_EVERY_S = 3600.0
CANCEL_S = 5.0  # that a run may take to end when it is cancelled


class Runner:
    """Runs what waits. `works` do what requests ask for, by the name that a submission gives. `ready` is set once it has cleaned up after
    the last hub; `running` are the runs under way, at most one of each request; `ended` counts the requests that were over since the start,
    by state."""

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
        self.places = Places()
        self.running: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self.ready = asyncio.Event()
        self.settling = Settling(requests, results, lanes, shares, outside, policy.kept_s, self.came, self.over)
        self._wake = asyncio.Event()
        self._beside: set[asyncio.Task[Any]] = set()
        self._tidied = self._slow = -EXPIRE_EVERY_S
        self.ended = Counter[str]()
        self._unserved = dict[str, float]()  # lanes that nobody can serve, and since when

    def came(self, request: Request) -> None:
        """One more waits."""
        self.lanes.came(request.lane, request.caller)
        self.changed(request)

    def changed(self, request: Request) -> None:
        """It waits now, and is counted."""
        self.places.add(request.lane, request.key)
        self.watch.put(request)
        self._wake.set()

    def left(self, request: Request) -> None:
        """One that waited is over."""
        self.places.remove(request.lane, request.key)
        self.lanes.came(request.lane, request.caller, -1)
        self.over(request)

    def over(self, request: Request) -> None:
        """It has ended."""
        self.ended[request.state.name.lower()] += 1
        self.watch.put(request)
        if request.webhook_url is not None:
            self._outside.ended(request)
        if not request.rules.kept:
            self.beside(asyncio.to_thread(self.results.remove, [input_name(request.id)]))

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
                except Exception as error:  # outermost line of the queue: one thing that cannot be done must not be the end of all others
                    log.exception("the queue stumbled: %s", type(error).__name__)
                    await self._outside.sleep(STORE_RETRY_S)
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._wake.wait()
        finally:
            await self._drain()

    def end(self, id: str) -> None:
        """Have a run end that its caller wants no more. What runs nowhere is left to the slow tick."""
        run, task = self.running.get(id, (None, None))
        if run is None or task is None or run.cancelled:
            return
        run.cancelled = True
        asyncio.get_running_loop().call_soon(task.cancel)  # a task that has not begun would not even clean up
        self.beside(self._insist(run, task))

    def beside(self, work: Awaitable[Any]) -> None:
        """Do something that nobody waits for."""

        async def done() -> None:
            try:
                await work
            except (StoreUnavailable, OSError) as error:
                log.warning("something beside the queue could not be done: %s", _said(error))

        task = asyncio.create_task(done())
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _drain(self) -> None:
        await asyncio.sleep(0)  # a task that has not begun would not even clean up
        running = list(self.running.values())
        for run, task in running:
            run.detached = True
            task.cancel()
        for beside in self._beside:
            beside.cancel()
        if waited_for := {*(task for _, task in running), *self._beside}:
            await asyncio.wait(waited_for, timeout=CANCEL_S)  # what does not let go is found running by the next start
        await self.settling.stop()
        if self._beside:  # what the last ends have left to do
            await asyncio.wait(self._beside, timeout=CANCEL_S)

    async def _step(self) -> None:
        if not self.ready.is_set():
            await self._begin()
        await self.tick()
        free = self.lanes.free(self.requests.now())
        # No await among those that are claimed: whoever cancels one of them finds its run.
        for request, body in await self.requests.claim(free, self.lanes.caps(), self.lanes.slots) if free else ():
            failpoints.reach("claimed")
            self.lanes.began(request)
            self.places.remove(request.lane, request.key)
            self.shares.claimed(request.lane, request.vtag)
            self.watch.put(request)
            keeps = (self.requests.now, self.requests.keep, self._write_lines, self.watch.wake)
            run = Run(request, body or b"", Log(request.attempt), *keeps)
            self.running[request.id] = run, asyncio.create_task(self._run(run, body is None))

    async def tick(self) -> None:
        """What comes with time: delayed requests, deadlines, what nobody serves, and what has been kept long enough."""
        while self.requests.anything_due(self.policy.low_max_wait_s):
            ready, late = await self.requests.due(self.policy.low_max_wait_s, self.policy.kept_s)
            for request in ready:
                self.places.remove(request.lane, replace(request, prio=LOW).key)
                self.changed(request)
            for request in late:
                self.left(request)
            if len(late) < BATCH:
                break
        now = self.requests.now()
        if abs(now - self._slow) >= SLOW_TICK_S:
            self._slow = now
            await self._recover(self.running)
            await self._give_up(now)
        if abs(now - self._tidied) >= EXPIRE_EVERY_S:
            self._tidied = now
            self.beside(self._expire())

    async def _give_up(self, now: float) -> None:
        """Fail what has waited too long in lanes that nobody has been there to serve for as long."""
        self._unserved = {lane: min(now, self._unserved.get(lane, now)) for lane in self.lanes.unready()}
        before = now - self.policy.unserved_s
        for lane in [lane for lane, since in self._unserved.items() if since <= before] if self.policy.unserved_s else ():
            ids = await asyncio.to_thread(self.requests.unserved, lane, before)
            for request in await self.requests.fail(ids, endings.UNSERVED, self.policy.kept_s):
                self.left(request)

    async def _recover(self, running: Collection[str]) -> None:
        """Clean up after runs that are none: all but those that go on here."""
        for request in await self.requests.recover(self.results.spooled, MOST_RUNS, self.policy.kept_s, running):
            if request.done:
                self.over(request)
            elif self.ready.is_set():
                self.came(request)

    async def _begin(self) -> None:
        await self._recover(())
        await asyncio.to_thread(self.results.sweep, self.requests.kept)
        waiting, keys = await asyncio.to_thread(self.requests.waiting), await asyncio.to_thread(self.requests.keys)
        self.places.load(keys)  # from here on nothing can fail, or the next try would count twice
        for lane, caller, count, _, most in waiting:
            self.lanes.came(lane, caller, count)
            self.shares.waits(lane, caller, most)
        least = dict[str, float]()
        for lane, _, _, tag, _ in waiting:
            least[lane] = min(tag, least.get(lane, tag))
        for lane, tag in least.items():
            self.shares.begins(lane, tag)
        self.ready.set()

    async def _expire(self) -> None:
        more = True
        while more:
            gone, more = await self.requests.expire(self.policy.log_s)
            if gone:
                failpoints.reach("payloads_erased")
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
            with under(restored(request.call.get("terms"), (request.id, request.attempt))), under_resumption(_hosted(run)):
                made = await self._outcome(run, filed)
            origin.end(made.status, len(run.body), len(made.body) if isinstance(made, Made) else 0)
            settling.append(self.settling.ended(run, made))
            await asyncio.shield(settling[0])
        except asyncio.CancelledError:
            origin.end(0, len(run.body), 0)
            if not settling:  # what was whole before it was wanted no more stays as it is
                settling.append(self.settling.stopped(run))
            await asyncio.shield(settling[0])
            raise
        finally:
            if self.running.get(request.id, (None,))[0] is run:  # or the next run of it has begun already
                del self.running[request.id]
            self.lanes.stopped(request)
            self.watch.wake(request.id)
            self._wake.set()

    async def _outcome(self, run: Run, filed: bool) -> Made | SensoriumError:
        broken = SensoriumError(f"the hub failed on this request; its log names it {run.request.id}")
        try:
            await self._given(run, filed)
            async with asyncio.timeout(run.request.rules.run_s) as limit:
                return await self._works[run.request.work](run)
        except SensoriumError as error:
            return error
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            log.error("request %s failed: its work was cancelled by nobody", run.request.id)
            return broken
        except Exception as error:  # outermost line of a run: whatever it ends in is what its caller is told
            if isinstance(error, TimeoutError) and limit.expired():
                return RunTimedOut(f"the run took longer than {run.request.rules.run_s:g} seconds")
            log.exception("request %s failed: %s", run.request.id, type(error).__name__)
            return broken

    async def _given(self, run: Run, filed: bool) -> None:
        """Read what the run needs: its input where that is a file, and what earlier runs have logged."""
        request = run.request
        if filed:
            found = await asyncio.to_thread(self.results.get, input_name(request.id))
            if found is None:
                raise SensoriumError("the input of this request is gone", hint="submit it again")
            run.body = found
        if request.attempt > 1:
            with suppress(StoreUnavailable):  # they stay on disk, and are only not shown while this run goes on
                run.lines.follow(await asyncio.to_thread(self.requests.lines, request.id))

    async def _insist(self, run: Run, task: asyncio.Task[None]) -> None:
        """End a request that was cancelled and whose run does not let go."""
        done, _ = await asyncio.wait({task}, timeout=CANCEL_S)
        if not done:
            self.settling.stopped(run)

    async def _write_lines(self, request: Request, lines: list[Line]) -> bool:
        try:
            await self.requests.write_lines(request, lines)
        except StoreUnavailable:  # they are read from memory, and written with those that come then, or with the end
            return False
        return True


def _hosted(run: Run) -> Resumption:
    """What a run has begun at providers, kept with its request."""
    return Resumption(run.handle, run.keep, run.log, lambda: run.detached)


def _said(error: StoreUnavailable | OSError) -> str:
    return error.message if isinstance(error, StoreUnavailable) else f"its files cannot be used: {error.strerror}"
