"""Run queued requests: claim, dispatch like any other call, keep the result, finish. Whoever asked may leave and come back.

A hub that stops gives its running requests back to the queue; one that died is cleaned up after by `Requests.recover`. A run that is
repeated for that is paid twice where the provider had begun it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from sensorium.errors import Busy, SensoriumError, UpstreamRefused
from sensorium.jobs.requests import Request, Requests, State
from sensorium.jobs.results import Results
from sensorium.routing.call import Call, Modality, Reply
from sensorium.routing.dispatch import Dispatch
from sensorium.routing.origin import ORIGIN, Origin, attributed
from sensorium.store.database import StoreUnavailable
from sensorium.wire import jsonbody

log = logging.getLogger("sensorium.jobs")
Keep = Callable[[Reply], Awaitable[tuple[bytes, dict[str, Any]]]]
"""What is kept of a reply: the result, and what is told with it."""

MOST_WAITING = 1000
EXPIRE_EVERY_S = 3600.0
STORE_RETRY_S = 2.0
_KEPT = ("id", "model", "modality", "dialects", "operation", "where", "deadline_s", "changes", "headers")


class Jobs:
    """Calls that outlive a connection. `keep` says per modality what is kept of a reply; `kept_s` is how long, `at_once` how many run.
    `sleep` waits, in seconds, while the disk cannot be used.

    Start `run` once, before anybody submits.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        requests: Requests,
        results: Results,
        keep: Mapping[Modality, Keep],
        *,
        at_once: int,
        kept_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.requests = requests
        self.results = results
        self._dispatch, self._keep = dispatch, keep
        self._at_once, self._kept_s, self._sleep = at_once, kept_s, sleep
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._ended: dict[str, asyncio.Event] = {}

    async def submit(self, call: Call, asked: Mapping[str, str] = MappingProxyType({})) -> Request:
        """Take the call on: it is on disk when this returns. `asked` is for the door to remember. Raises Busy when too many wait."""
        call, origin = self._dispatch.laid(attributed(call)), ORIGIN.get()
        described = {"asked": dict(asked), **{name: getattr(call, name) for name in _KEPT}}
        described |= {"door": origin.door, "attribution": origin.attribution} if origin is not None else {}
        body = jsonbody.encode(call.members)
        if await asyncio.to_thread(self.requests.waiting) >= MOST_WAITING:
            raise Busy(f"{MOST_WAITING} requests wait already", retry_after=30)
        request = await asyncio.to_thread(self.requests.submit, call.caller, described, body)
        self._wake.set()
        return request

    async def ended(self, request: Request) -> Request:
        """The request once nothing changes any more. Raises UnknownRequest when it is removed meanwhile."""
        while True:
            event = self._ended.setdefault(request.id, asyncio.Event())
            now = await asyncio.to_thread(self.requests.of, request.caller, request.id)
            if now.done:
                self._tell(request.id)
                return now
            await event.wait()

    async def remove(self, caller: str, id: str) -> Request:
        """Forget a request and its result; a run of it ends, and its upstream call with it. Raises UnknownRequest."""
        removed = await asyncio.to_thread(self.requests.remove, caller, id)
        running = self._running.get(id)
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await asyncio.to_thread(self.results.remove, [id])
        self._tell(id)
        return removed

    async def run(self) -> None:
        """Until cancelled. Running requests are then given back."""
        recovered, tidied, loop = False, -EXPIRE_EVERY_S, asyncio.get_running_loop()
        try:
            while True:
                self._wake.clear()
                try:
                    if not recovered:
                        await asyncio.to_thread(self._recover)
                        recovered = True
                    await self._start_waiting()
                    if loop.time() - tidied >= EXPIRE_EVERY_S:
                        await asyncio.to_thread(self._expire)
                        tidied = loop.time()
                except (StoreUnavailable, OSError) as error:
                    log.warning("the queue stands still: %s", _said(error))
                    await self._sleep(STORE_RETRY_S)
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(EXPIRE_EVERY_S):
                        await self._wake.wait()
        finally:
            running = list(self._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _recover(self) -> None:
        self.requests.recover()
        self.results.sweep(self.requests.ids())

    def _expire(self) -> None:
        self.results.remove([request.id for request in self.requests.expired(self._kept_s)])

    async def _start_waiting(self) -> None:
        free = self._at_once - len(self._running)
        for request, body in await asyncio.to_thread(self.requests.claim, free) if free > 0 else ():
            self._running[request.id] = asyncio.create_task(self._run(request, body))

    async def _run(self, request: Request, body: bytes) -> None:
        try:
            await self._finish(request, *await self._answered(request, body))
        except asyncio.CancelledError:
            await asyncio.to_thread(self.requests.give_back, request)
            raise
        finally:
            del self._running[request.id]
            self._tell(request.id)
            self._wake.set()

    async def _answered(self, request: Request, body: bytes) -> tuple[State, dict[str, Any]]:
        described = {name: request.call[name] for name in _KEPT}
        described |= {name: tuple(described[name]) for name in ("dialects", "changes")}
        if described["deadline_s"] is not None:  # it counts from the submission on
            described["deadline_s"] -= (request.claimed_at or request.created_at) - request.created_at
        call = Call(**described, members=jsonbody.members(body), caller=request.caller)
        origin = Origin(call.id, request.call.get("attribution", {}), request.call.get("door", ""), request.caller)
        ORIGIN.set(origin)  # of this task alone
        try:
            reply = await self._dispatch(call)
            data, told = await self._keep[call.modality](reply)
            await asyncio.to_thread(self.results.put, request.id, request.attempt, data)
        except asyncio.CancelledError:
            origin.end(0, len(body), 0)
            raise
        except Exception as error:  # the outermost line of a run: whatever it ends in is what its caller is told
            known = (
                error
                if isinstance(error, SensoriumError)
                else SensoriumError(f"the hub failed on this request; its log names it {call.id}")
            )
            if known is not error:
                log.error("request %s failed: %s", call.id, type(error).__name__)
            origin.end(known.status, len(body), 0)
            return State.FAILED, _told(known)
        origin.end(200, len(body), len(data))
        return State.SUCCEEDED, told

    async def _finish(self, request: Request, state: State, told: dict[str, Any]) -> None:
        """Write the end down, however long the database cannot be written: until then whoever waits goes on waiting."""
        while True:
            try:
                counts = await asyncio.to_thread(self.requests.finish, request, state, told)
                break
            except StoreUnavailable as error:
                log.warning("request %s ended, and that cannot be written yet: %s", request.id, error.message)
                await self._sleep(STORE_RETRY_S)
        if not counts:
            await asyncio.to_thread(self.results.remove, [request.id])

    def _tell(self, id: str) -> None:
        event = self._ended.pop(id, None)
        if event is not None:
            event.set()


def _said(error: StoreUnavailable | OSError) -> str:
    return error.message if isinstance(error, StoreUnavailable) else f"its files cannot be used: {error.strerror}"


def failure(request: Request) -> SensoriumError:
    """The error that a failed request ended in, as it would have been raised to a waiting caller."""
    told = request.told
    more = {name: told.get(name) for name in ("param", "hint", "retry_after")}
    return UpstreamRefused(told["message"], status=told["status"], code=told["code"], source=told.get("source", "hub"), **more)


def _told(error: SensoriumError) -> dict[str, Any]:
    source = {"source": error.source} if isinstance(error, UpstreamRefused) else {}
    members = {"status": error.status, "code": error.code, "message": error.message, **source}
    return members | {name: value for name in ("param", "hint", "retry_after") if (value := getattr(error, name)) is not None}
