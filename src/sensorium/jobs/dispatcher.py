"""The queue as doors see it: submit, look, wait, cancel, fetch. Whoever asked may leave and come back. `runner` does the work."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

from sensorium import failpoints
from sensorium.errors import Busy, SensoriumError, UpstreamRefused
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.logs import Line
from sensorium.jobs.policy import Outside, Policy
from sensorium.jobs.request import Asked, NotRepeatable, Request, State
from sensorium.jobs.requests import Requests, new_id
from sensorium.jobs.results import Results, input_name
from sensorium.jobs.rows import INLINE
from sensorium.jobs.run import Work
from sensorium.jobs.runner import CANCEL_S, SLOW_TICK_S, Runner
from sensorium.jobs.share import Shares
from sensorium.routing.origin import ORIGIN
from sensorium.routing.terms import captured
from sensorium.store import objects
from sensorium.store.database import StoreUnavailable

READY_S = 5.0
FETCHED_S = 3600.0  # how long the output of a request that is not to be kept stays after its first fetch
FULL_RETRY_S = 30.0
T = TypeVar("T")
_WHOLE: Final[set[asyncio.Task[Any]]] = set()  # the loop alone would let them go


class Jobs:
    """Requests that outlive a connection. Start `run` once, before anybody submits."""

    def __init__(
        self,
        requests: Requests,
        results: Results,
        works: Mapping[str, Work],
        lanes: Lanes,
        outside: Outside,
        *,
        policy: Policy | None = None,
        shares: Shares | None = None,
    ) -> None:
        self.requests, self.results = requests, results
        self._runner = Runner(requests, results, works, lanes, policy or Policy(), outside, shares or Shares())
        self._watch = self._runner.watch

    async def run(self) -> None:
        """Do the work until cancelled. Running requests are then given back."""
        await self._runner.run()

    async def submit(self, asked: Asked) -> tuple[Request, bool]:
        """Take a request on: it is on disk when this returns. True beside it when its idempotency key brought back an earlier one.

        Raises Busy when too many wait, KeyReused, StoreUnavailable.
        """
        await self._until_ready()
        origin = ORIGIN.get()
        call = {**asked.call, "terms": captured()}
        call |= {"door": origin.door, "attribution": origin.attribution} if origin is not None else {}
        return await _whole(self._submit(asked, call))

    async def _submit(self, asked: Asked, call: dict[str, Any]) -> tuple[Request, bool]:
        lanes, replayed = self._runner.lanes, True
        earlier = await self.requests.replayed(asked) if asked.idempotency_key else None
        if earlier is not None:
            return earlier, True
        self._check_room(asked)
        lanes.came(asked.lane, asked.caller)  # before it is there: many that come at once must not pass the check together
        id = new_id(self.requests.now())
        try:
            if len(asked.body) > INLINE:
                with objects.told():
                    await asyncio.to_thread(self.results.put, input_name(id), 0, asked.body)
            request, replayed = await self.requests.submit(id, asked, self._runner.shares.tag(asked.lane, asked.caller), call)
        finally:
            if replayed:
                lanes.came(asked.lane, asked.caller, -1)
                with suppress(OSError):  # the next start sweeps
                    await asyncio.to_thread(self.results.remove, [input_name(id)] if len(asked.body) > INLINE else [])
        if not replayed:
            failpoints.reach("submit_committed")
            self._runner.changed(request)
        return request, replayed

    async def of(self, caller: str | None, id: str) -> Request:
        """The caller's request (None: anybody's). Raises UnknownRequest."""
        return self._seen(self._watch.of(caller, id))

    async def position(self, request: Request) -> int:
        """How many of its lane are before a waiting request."""
        return self._runner.places.of(request.lane, request.key)

    def cost(self, lane: str) -> float | None:
        """Seconds that a run of a lane takes, about; None as long as none was seen."""
        return self._runner.shares.seen(lane)

    async def changed(self, request: Request, seconds: float) -> Request:
        """The request as soon as it or its lines differ from this one, and at the latest after so many seconds. Raises UnknownRequest."""
        with self._watch.change(request.id) as event:
            now = await self.of(request.caller, request.id)
            if (now.ver, now.logged) == (request.ver, request.logged):
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await event.wait()
                now = await self.of(request.caller, request.id)
            return now

    async def ended(self, request: Request) -> Request:
        """The request once nothing changes any more. Raises UnknownRequest when it is removed meanwhile."""
        while not request.done:
            request = await self.changed(request, SLOW_TICK_S)
        return request

    async def lines(self, request: Request, after: tuple[int, int] = (0, 0)) -> list[Line]:
        """What its runs have logged, beyond (attempt, number)."""
        running = self._runner.running.get(request.id)
        if running is None:
            return await asyncio.to_thread(self.requests.lines, request.id, *after)
        return [line for line in running[0].lines.lines if (line.attempt, line.number) > after]

    async def attempts(self, request: Request) -> list[tuple[int, float, float, str]]:
        """(attempt, began, ended, how) of its runs that ended, oldest first."""
        return await asyncio.to_thread(self.requests.attempts, request.id)

    async def output(self, request: Request) -> bytes | None:
        """The body of its result; None when it is gone, or not there yet. The first look at one that is not to be kept begins its end."""
        if request.payload_gone or not request.done:
            return None
        with objects.told():
            found = self.requests.output(request.id) or await asyncio.to_thread(self.results.get, request.id)
        if not request.rules.kept:
            await self.requests.fetched(request, self.requests.now() + FETCHED_S)
        return found

    def kept_output(self, id: str) -> bytes | None:
        """The body of a result without counting as a look at it. Blocks on the disk. Raises StoreUnavailable."""
        with objects.told():
            return self.requests.output(id) or self.results.get(id)

    async def cancel(self, caller: str | None, id: str) -> bool:
        """Have a request end. False when it is over already. Raises UnknownRequest."""
        await self._until_ready()
        return await _whole(self._cancel(caller, id))

    async def _cancel(self, caller: str | None, id: str) -> bool:
        request, asked = await self.requests.cancel(caller, id, self._runner.policy.kept_s)
        if request.state is State.CANCELLED and asked:
            self._runner.left(request)
        elif asked:
            failpoints.reach("cancel_committed")
            self._watch.put(request)
            self._runner.end(id)
        return asked

    async def retry(self, caller: str | None, id: str) -> Request:
        """Run an ended request again that did not succeed. Raises UnknownRequest, NotRepeatable."""
        await self._until_ready()
        if id in self._runner.running and self.requests.of(caller, id).done:
            raise NotRepeatable(f"the last run of request {id} has not let go yet; try again in a moment")
        return await _whole(self._retry(caller, id))

    async def _retry(self, caller: str | None, id: str) -> Request:
        request = await self.requests.again(caller, id)
        self._runner.came(request)
        return request

    async def remove(self, caller: str | None, id: str) -> Request:
        """Forget a request, its result and its files; a run of it ends, and its upstream call with it. Raises UnknownRequest."""
        await self._until_ready()
        return await _whole(self._remove(caller, id))

    async def _remove(self, caller: str | None, id: str) -> Request:
        removed = await self.requests.remove(caller, id)
        self._watch.forget(id)
        if removed.waits:
            self._runner.lanes.came(removed.lane, removed.caller, -1)
            self._runner.places.remove(removed.lane, removed.key)
        if removed.state is State.RUNNING:
            self._runner.end(id)
            if (running := self._runner.running.get(id)) is not None:
                await asyncio.wait({running[1]}, timeout=CANCEL_S)
        with objects.told():
            await asyncio.to_thread(self.results.remove, [id, input_name(id)])
        await self._runner.settling.discard()
        return removed

    def lanes(self) -> dict[str, tuple[int, int]]:
        """How many requests of each lane wait and run; of those lanes that have any."""
        waiting, running = self._runner.lanes.waiting, self._runner.lanes.running
        return {lane: (waiting[lane], running[lane]) for lane in sorted({*waiting, *running}) if waiting[lane] or running[lane]}

    def ended_since_start(self) -> Mapping[str, int]:
        """How many requests have ended, by the name of their state."""
        return self._runner.ended

    def repeated_since_start(self) -> Mapping[str, int]:
        """How many runs were followed by another one, by how they ended (routing/repeat, or "given back" by a hub that stopped)."""
        return self._runner.settling.repeated

    async def listed(self, caller: str | None, limit: int, after: str | None = None, **which: Any) -> list[Request]:
        """As `Requests.listed`."""
        return [self._seen(found) for found in await asyncio.to_thread(lambda: self.requests.listed(caller, limit, after, **which))]

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(READY_S):
                await self._runner.ready.wait()
        except TimeoutError:
            raise StoreUnavailable("the hub's queue cannot be read yet; try again", retry_after=5) from None

    def _check_room(self, asked: Asked) -> None:
        waiting, own = self._runner.lanes.waiting, self._runner.policy.most_waiting_of.get(asked.caller)
        if waiting.total() >= self._runner.policy.most_waiting:
            raise Busy(f"{waiting.total()} requests wait already", retry_after=FULL_RETRY_S)
        if own is not None and self._runner.lanes.waiting_of[asked.caller] >= own:
            raise Busy(f"{own} requests of this caller wait already, which is as many as may", retry_after=FULL_RETRY_S)
        if asked.most_waiting is not None and waiting[asked.lane] > asked.most_waiting:
            raise Busy(
                f"{waiting[asked.lane]} requests wait for {asked.lane}, more than the {asked.most_waiting} asked for",
                retry_after=FULL_RETRY_S,
            )

    def _seen(self, request: Request) -> Request:
        running = self._runner.running.get(request.id)
        return request if running is None else replace(request, logged=len(running[0].lines.lines))


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """What `work` makes. It is done to its end even where whoever waits is cancelled: what is on disk must be known here."""
    task = asyncio.create_task(work)
    _WHOLE.add(task)
    task.add_done_callback(_done)
    return await asyncio.shield(task)


def _done(task: asyncio.Task[Any]) -> None:
    _WHOLE.discard(task)
    if not task.cancelled():
        task.exception()  # whoever waited has it, or has gone


def failure(request: Request) -> SensoriumError:
    """The error that a request ended in, as it would have been raised to a waiting caller."""
    told = request.told
    more = {name: told.get(name) for name in ("param", "hint", "retry_after")}
    status, code, source = told.get("status", 500), told.get("code", "internal_error"), told.get("source", "hub")
    return UpstreamRefused(told.get("message", told.get("error", "")), status=status, code=code, source=source, **more)
