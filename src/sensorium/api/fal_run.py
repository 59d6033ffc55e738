"""fal's door of direct calls: run an app and answer its output, whole or as it grows (fal.md, sections 4.1 and 4.7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import msgspec

from sensorium.api.base_url import base_url
from sensorium.api.fal_requests import Apps, Target, target
from sensorium.api.router import Entry
from sensorium.api.visit import SOURCE, Visit
from sensorium.apps.app import Output, Task
from sensorium.errors import SensoriumError, UpstreamFailed
from sensorium.wire import fal_errors, fal_submit, sse

BELOW: Final = "/fal/run/*"
STREAM, OPENAPI = "/stream", "/openapi.json"
PING_S: Final = 15.0
PING: Final = b": ping\n\n"
EVENTS: Final = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no", SOURCE: "hub"}


class RunDoor:
    """Handlers below /fal/run. `public_url` begins the links of replies where it is set; `sleep` waits between the pings of a stream."""

    def __init__(self, apps: Apps, public_url: str | None = None, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._apps, self._public, self._sleep = apps, public_url, sleep

    async def post(self, visit: Visit) -> None:
        """POST /fal/run/OWNER/ALIAS[/SUB...][/stream]: the input is the body."""
        name = visit.params[0].rstrip("/")
        streams = name.endswith(STREAM)
        there = target(self._apps, visit, name.removesuffix(STREAM) if streams else name)
        task = self._task(visit, there, fal_submit.decoded(await visit.whole_body()))
        await (self._stream(visit, there, task) if streams else self._run(visit, there, task))

    async def get(self, visit: Visit) -> None:
        """GET /fal/run/OWNER/ALIAS[/SUB...]: the input is the query string; /openapi.json at the end describes the app."""
        if visit.params[0].endswith(OPENAPI):
            await described(visit, self._apps, base_url(visit, self._public))
            return
        there = target(self._apps, visit, visit.params[0])
        await visit.whole_body()  # there is none, and from here on it is heard when the caller leaves
        await self._run(visit, there, self._task(visit, there, fal_submit.given(visit.query)))

    def _task(self, visit: Visit, there: Target, given: dict[str, Any]) -> Task:
        fal_submit.start_within(visit.header)  # a direct call begins at once, so that only a malformed one matters
        lifecycle = fal_submit.lifecycle(visit.header)
        return Task(visit.request_id, visit.caller, given, there.path, base_url(visit, self._public), lifecycle)

    async def _run(self, visit: Visit, there: Target, task: Task) -> None:
        made = await there.app.run(task)
        await visit.answer(msgspec.json.encode(made.body), made.headers)

    async def _stream(self, visit: Visit, there: Target, task: Task) -> None:
        async with aclosing(there.app.stream(task)) as outputs:
            first = await anext(outputs, None)  # whatever is wrong with the input is told before the stream begins
            if first is None:
                raise UpstreamFailed("the app made nothing")
            await visit.begin(200, {**EVENTS, **(first.headers or {})})
            writing = asyncio.Lock()
            pinging = asyncio.create_task(self._ping(visit, writing))
            try:
                await _events(visit, writing, first, outputs)
            finally:
                pinging.cancel()
                await asyncio.gather(pinging, return_exceptions=True)
        await visit.end()

    async def _ping(self, visit: Visit, writing: asyncio.Lock) -> None:
        """Comments, which both clients pass over: a proxy on the way does not take a silent stream for a dead one."""
        while True:
            await self._sleep(PING_S)
            async with writing:
                await visit.send(PING)


async def _events(visit: Visit, writing: asyncio.Lock, first: Output, more: AsyncIterator[Output]) -> None:
    """One event for each output; an error that comes now can only be the last event."""

    async def send(event: Mapping[str, Any]) -> None:
        async with writing:
            await visit.send(sse.event(msgspec.json.encode(event)))

    await send(first.body)
    try:
        async for output in more:
            await send(output.body)
    except SensoriumError as error:
        await send(fal_errors.told(error))


async def described(visit: Visit, apps: Apps, base: str) -> None:
    """The OpenAPI description of the app that a path names. Raises UnknownApp."""
    there = target(apps, visit, visit.params[0].removesuffix(OPENAPI))
    await visit.answer(msgspec.json.encode(there.app.openapi(there.path, base)))


def entries(door: RunDoor) -> list[Entry]:
    """The routes of direct calls."""
    return [Entry("POST", BELOW, door.post, fal_errors.error), Entry("GET", BELOW, door.get, fal_errors.error)]
