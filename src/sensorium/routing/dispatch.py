"""Walk the plan until somebody answers, and record the call once, when its body closes. No failover after the first byte.

An event stream has answered when its first event is there and is not an error. Routes whose rate limit is reached are passed over;
when nobody else answers, the call waits for the first of them within its deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from sensorium.errors import Cancelled, DeadlineExceeded, SensoriumError, UpstreamFailed
from sensorium.routing.call import ANY_MODEL, Attempt, Call, Record, Reply, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.health import Admission, Closed, Health
from sensorium.routing.opening import opened, retry_after
from sensorium.routing.plan import plan
from sensorium.routing.refusal import refusal
from sensorium.wire import sse
from sensorium.wire.failure import Failure

Send = Callable[[Call, Route], Awaitable[Reply]]
NEXT_RUNG = (404, 422)  # of `*`: the next model may know what this one does not
LONGEST_WAIT_S = 60.0  # for a rate limit, when the call has no deadline of its own


@dataclass(frozen=True, slots=True)
class Parts:
    """What a dispatch works with: the transport, where records go, what is known of the routes, seconds, and waiting for some."""

    send: Send
    record: Callable[[Record], None]
    health: Health
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Dispatch:
    """Answers calls from the routes of `catalog`."""

    def __init__(self, catalog: Catalog, parts: Parts) -> None:
        self.catalog = catalog
        self.health = parts.health
        self._parts = parts

    async def __call__(self, call: Call) -> Reply:
        """The first reply that a route gives, its body still arriving.

        Raises what `plan` raises, and what `refusal` makes of the attempts when nobody answered.
        """
        began = self._parts.clock()
        walk = Walk(self._parts, call, list(plan(call, self.catalog)), began)
        try:
            reply = await walk.to_an_answer()
        except SensoriumError as error:
            self._record(walk, None, error.status, "failed", began)
            raise
        except asyncio.CancelledError:
            self._record(walk, walk.asking, Cancelled.status, "client_closed", began)
            raise
        return self._metered(walk, replace(reply, attempts=tuple(walk.attempts)), began)

    def _record(self, walk: Walk, route: Route | None, status: int, outcome: str, began: float) -> None:
        self._parts.record(Record(walk.call, route, status, outcome, 0.0, self._parts.clock() - began, 0, tuple(walk.attempts)))

    def _metered(self, walk: Walk, reply: Reply, began: float) -> Reply:
        clock, first_byte, sent, closed = self._parts.clock, 0.0, 0, False
        complete = "answered" if reply.status < 400 else "refused"
        outcome = "client_closed"

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal first_byte, sent, outcome
            try:
                async for chunk in reply.chunks:
                    first_byte = first_byte or clock() - began
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
                done = (reply.status, outcome, first_byte, clock() - began, sent, reply.attempts)
                self._parts.record(Record(walk.call, reply.route, *done))
                await reply.close()

        return replace(reply, chunks=chunks(), close=close)


class Walk:
    """One call on its way through its routes. `attempts` are those that did not answer, `asking` the one that is being asked."""

    def __init__(self, parts: Parts, call: Call, routes: list[Route], began: float) -> None:
        self.call, self.routes, self.attempts = call, routes, list[Attempt]()
        self.asking: Route | None = None
        self._parts = parts
        self._until = None if call.deadline_s is None else began + call.deadline_s

    async def to_an_answer(self) -> Reply:
        """Ask one route after the other; then those whose rate limit was reached, once it lets a call through."""
        for route in self.routes:
            reply = await self._ask(route)
            if reply is not None:
                return reply
        while (limited := self._limited()) is not None:
            route, wait = limited
            await self._parts.sleep(wait)
            self.attempts = [attempt for attempt in self.attempts if attempt.route is not route]
            reply = await self._ask(route)
            if reply is not None:
                return reply
        raise refusal(self.attempts)

    def _limited(self) -> tuple[Route, float] | None:
        """The route that was passed over for its rate limit and opens first, and seconds until then, if the call can wait that long."""
        waits = [
            (a.retry_after_s, a.route)
            for a in self.attempts
            if a.failure.kind == "rate_limited" and not a.asked and a.retry_after_s is not None
        ]
        wait, route = min(waits, key=lambda pair: pair[0], default=(0.0, None))
        return (route, wait) if route is not None and wait < self._left(LONGEST_WAIT_S) else None

    def _left(self, otherwise: float) -> float:
        return otherwise if self._until is None else self._until - self._parts.clock()

    async def _ask(self, route: Route) -> Reply | None:
        """The reply of one route, or None with an attempt noted. Raises the caller's own fault at once."""
        admission = self._parts.health.enter(route)
        if isinstance(admission, Closed):
            self._note(route, Failure(admission.kind, 0, admission.reason), admission.retry_after_s, asked=False)
            return None
        self.asking = route
        try:
            return await self._answered(route, admission)
        finally:
            admission.released()  # no effect where there was a verdict

    async def _answered(self, route: Route, admission: Admission) -> Reply | None:
        try:
            async with asyncio.timeout(None if self._until is None else max(0.0, self._left(0.0))):
                reply, failure = await opened(await self._sent(route), self.call.method)
        except TimeoutError:
            failure = Failure("transport", DeadlineExceeded.status, "it did not answer within the call's deadline")
        except SensoriumError as error:
            if not error.retryable:
                raise
            failure = Failure("transport", error.status, error.message)
        else:
            if failure is None:
                admission.answered()
                return reply
            told = retry_after(reply)
            silent = self.call.optional and failure.kind == "model_unavailable"  # the operation is missing, not the model
            wait = told if silent else admission.failed(failure, told) or told
            return self._refused(route, reply, failure, wait)
        self._note(route, failure, admission.failed(failure))
        return None

    async def _sent(self, route: Route) -> Reply:
        try:
            reply = await self._parts.send(self.call, route)
        except UpstreamFailed:
            if not route.provider.local:
                raise
            # The engine died under this call; its address stays open while it restarts, and asking again costs nothing.
            return await self._parts.send(self.call, route)
        if reply.status == 401 and not route.provider.local:
            # A hosted service says 401 also while its own key store is down: ask once more.
            await reply.close()
            reply = await self._parts.send(self.call, route)
        return reply

    def _refused(self, route: Route, reply: Reply, failure: Failure, wait: float | None) -> Reply | None:
        final = failure.kind == "semantic" and not (self.call.model == ANY_MODEL and failure.status in NEXT_RUNG)
        if route.provider.local and (final or len(self.routes) == 1):
            return reply  # our own engine's words, already in the caller's dialect
        self._note(route, failure, wait)
        if final:
            raise refusal(self.attempts)
        return None

    def _note(self, route: Route, failure: Failure, wait: float | None, *, asked: bool = True) -> None:
        self.attempts.append(Attempt(route, failure, asked, wait))
