"""Walk the plan until somebody answers, and record the call when its body closes. No failover after the first byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from sensorium.errors import Cancelled, SensoriumError, Unavailable, UpstreamFailed
from sensorium.routing.call import Call, Record, Reply, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.plan import plan
from sensorium.wire import sse

Send = Callable[[Call, Route], Awaitable[Reply]]


class Dispatch:
    """Answers calls. `send` is the transport, `record` gets one Record per call, `clock` counts seconds."""

    def __init__(self, catalog: Catalog, send: Send, record: Callable[[Record], None], clock: Callable[[], float]) -> None:
        self.catalog = catalog
        self._send = send
        self._record = record
        self._clock = clock

    async def __call__(self, call: Call) -> Reply:
        """The first reply that a route gives, its body still arriving.

        Raises what `plan` raises; the last route's error when nobody answered, at once when another route would not help.
        """
        began = self._clock()
        failure: SensoriumError = Unavailable("no route")
        for route in plan(call, self.catalog):
            try:
                reply = await self._attempt(call, route)
            except SensoriumError as error:
                self._record(Record(call, route, error.status, "failed", 0.0, self._clock() - began, 0))
                if not error.retryable:
                    raise
                failure = error
            except asyncio.CancelledError:
                self._record(Record(call, route, Cancelled.status, "client_closed", 0.0, self._clock() - began, 0))
                raise
            else:
                return self._metered(call, reply, began)
        raise failure

    async def _attempt(self, call: Call, route: Route) -> Reply:
        reason = route.provider.down()
        if reason is not None:
            raise Unavailable(f"{route.provider.name} cannot answer: {reason}")
        try:
            return await self._send(call, route)
        except UpstreamFailed:
            if not route.provider.local:
                raise
            # The engine died under this call; its address stays open while it restarts, and asking again costs nothing.
            return await self._send(call, route)

    def _metered(self, call: Call, reply: Reply, began: float) -> Reply:
        first_byte = 0.0
        sent = 0
        complete = "answered" if reply.status < 400 else "refused"
        outcome = "client_closed"
        closed = False

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal first_byte, sent, outcome
            try:
                async for chunk in reply.chunks:
                    first_byte = first_byte or self._clock() - began
                    sent += len(chunk)
                    if chunk.endswith(sse.DONE):
                        outcome = complete  # whoever hangs up now has everything
                    yield chunk
            except SensoriumError:
                outcome = "failed"
                raise
            outcome = complete

        async def close() -> None:
            nonlocal closed
            if not closed:
                closed = True
                self._record(Record(call, reply.route, reply.status, outcome, first_byte, self._clock() - began, sent))
                await reply.close()

        return Reply(reply.status, reply.headers, chunks(), close, reply.route)
