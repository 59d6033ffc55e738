"""Walk the plan until somebody answers, and record the call once, when its body closes. No failover after the first byte.

An event stream has answered when its first event is there and is not an error, anything else with its first byte (`opening`). Routes whose
limit is reached, or whose models are being loaded, are passed over; when nobody else answers, the call waits for models and for its turn
(`turns`) within its deadline. A slow route may be raced against the next (`hedge`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sensorium.errors import Cancelled, Cause, DeadlineExceeded, SensoriumError, Unprocessable, UpstreamFailed
from sensorium.routing import hedge, resume
from sensorium.routing.call import ANY_MODEL, Attempt, Call, Record, Reply, Route, Where
from sensorium.routing.catalog import Catalog
from sensorium.routing.health import LOADING, SECRET_MISSING, Admission, Closed, Health
from sensorium.routing.opening import EMPTY, identity, opened, retry_after
from sensorium.routing.origin import attributed
from sensorium.routing.pictures import calls
from sensorium.routing.plan import plan
from sensorium.routing.refusal import overdue, refusal
from sensorium.routing.repeat import NEEDS_RETRY, of_status
from sensorium.routing.terms import laid_on
from sensorium.routing.translation import translation
from sensorium.routing.turns import QUEUE_FULL, Turns
from sensorium.store.database import StoreUnavailable
from sensorium.store.secret import SecretUnusable
from sensorium.wire import sse
from sensorium.wire.failure import Failure

Send = Callable[[Call, Route], Awaitable[Reply]]
NEXT_RUNG = (404, 422)  # of `*`: the next model may know what this one does not
LONGEST_WAIT_S = 60.0  # for a rate limit, when the call has no deadline of its own
LATE = Failure("transport", DeadlineExceeded.status, "it did not answer within the call's deadline")
OVERTAKEN = Failure("overtaken", 0, "given up before it answered")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a dispatch works with: the transport, where records go, what is known of the routes, seconds, and waiting for some."""

    send: Send
    record: Callable[[Record], None]
    health: Health
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Dispatch:
    """Answers calls from the routes of `catalog`; `order` is the hub's own wish where they go. Both may change while it serves."""

    def __init__(self, catalog: Catalog, parts: Parts, order: Where = "any") -> None:
        self.catalog = catalog
        self.health = parts.health
        self.order = order
        self._parts = parts
        self._turns = Turns(parts.health, parts.sleep)

    async def __call__(self, call: Call) -> Reply:
        """The first reply that a route gives, its body still arriving.

        Raises what `plan` raises, what `refusal` makes of the attempts when nobody answered, and DeadlineExceeded.
        """
        call, began = attributed(call), self._parts.clock()
        walk = Walk(self._parts, self._turns, call, began)
        try:
            walk.call = laid_on(call, self.order, began)
            with resume.begun(walk.call):
                answer = walk.bounded(await walk.to_an_answer(plan(walk.call, self.catalog)))
            reply = await translation(call, answer)
        except Exception as error:
            status = error.status if isinstance(error, SensoriumError) else SensoriumError.status
            self._record(walk, None, status, "failed" if walk.routes else "refused", began)
            raise
        except asyncio.CancelledError:
            self._record(walk, walk.given_up.pop(0) if walk.given_up else None, Cancelled.status, "client_closed", began)
            raise
        return self._metered(walk, replace(reply, attempts=walk.all_attempts()), began)

    def plan(self, call: Call) -> tuple[Route, ...]:
        """The routes that this call would be sent to, best first. Raises as `plan` does."""
        return plan(self.laid(call), self.catalog)

    def laid(self, call: Call) -> Call:
        """The call under the hub's order and its request's terms, as it can be kept for later. Raises Forbidden as `laid_on` does."""
        return laid_on(call, self.order, self._parts.clock())

    def waiting(self) -> dict[str, int]:
        """How many calls wait for their turn, by provider."""
        return self._turns.waiting()

    def _record(self, walk: Walk, route: Route | None, status: int, outcome: str, began: float) -> None:
        self._parts.record(Record(walk.call, route, status, outcome, 0.0, self._parts.clock() - began, 0, walk.all_attempts()))

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
                    if sse.ended(chunk):
                        outcome = complete  # whoever hangs up now has everything
                    yield chunk
            except Exception:
                outcome = "failed"
                raise
            outcome = complete

        async def close() -> None:
            nonlocal closed
            if not closed:
                closed = True
                done = (reply.status, outcome, first_byte, clock() - began, sent, reply.attempts, reply.usage())
                try:
                    self._parts.record(Record(walk.call, reply.route, *done))
                finally:
                    await reply.close()

        return replace(reply, chunks=chunks(), close=close)


class Walk:
    """One call on its way through its routes. `attempts` are those that did not answer; `given_up` those that were being asked when the
    call ended or another one answered."""

    def __init__(self, parts: Parts, turns: Turns, call: Call, began: float) -> None:
        self.call, self.attempts, self.given_up = call, list[Attempt](), list[Route]()
        self.routes: Sequence[Route] = ()
        self._unfit: SensoriumError | None = None  # the first refusal of ours: a route that cannot be sent this call
        self._parts, self._turns, self._began = parts, turns, began

    def all_attempts(self) -> tuple[Attempt, ...]:
        """Every route that was tried and did not answer, those given up last."""
        return (*self.attempts, *(Attempt(route, OVERTAKEN, asked=True) for route in self.given_up))

    async def to_an_answer(self, routes: Sequence[Route]) -> Reply:
        """Ask one route after the other; then those whose rate limit was reached, when it is this call's turn."""
        self.routes, place = routes, resume.place()
        taken = None if place is None else await place.taken(routes)
        if taken is not None and place is not None:
            # Its job is paid for: neither a limit nor a breaker keeps it waiting, and nobody else is asked while it goes on.
            reply = await self._ask(taken, Admission(self._parts.health, taken, trial=False))
            if reply is not None:
                return reply
            if place.holds:
                raise refusal(self.attempts)
        ahead = iter([route for route in routes if route is not taken])
        for route in ahead:
            reply = await self._hedged(route, ahead)
            if reply is not None:
                return reply
        for route in [attempt.route for attempt in self.attempts if attempt.failure.code == LOADING]:
            reply = await self._loaded(route)
            if reply is not None:
                return reply
        while (limited := self._limited()) is not None:
            reply = await self._ask(limited, await self._turn(limited))
            if reply is not None:
                return reply
        raise self._unfit or refusal(self.attempts)

    def bounded(self, reply: Reply) -> Reply:
        """The reply, its body under the call's deadline unless it is a stream."""
        free = self.call.stream or self.call.deadline_s is None
        return reply if free else replace(reply, chunks=self._in_time(reply.chunks))

    async def _in_time(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The body under the call's deadline. Raises DeadlineExceeded."""
        while True:
            try:
                async with asyncio.timeout(self._left()):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise overdue(self.call, self.attempts) from None
            yield chunk

    async def _hedged(self, route: Route, ahead: Iterator[Route]) -> Reply | None:
        """The reply of a route, or of those `ahead` of it where this one is slow and asking twice does no harm."""
        after = hedge.after_s(self.call, route)
        if after is None:
            return await self._ask(route)
        return await hedge.raced(self._ask(route), lambda: self._first_of(ahead), self._parts.sleep(after), self.given_up.append)

    async def _first_of(self, routes: Iterator[Route]) -> Reply | None:
        for route in routes:
            reply = await self._ask(route)
            if reply is not None:
                return reply
        return None

    async def _loaded(self, route: Route) -> Reply | None:
        """The reply of a route whose models were being loaded, if they are there before the time for waiting is over."""
        loading, left = route.provider.loading(), self._left()
        if loading is not None:
            try:
                async with asyncio.timeout(left):
                    await loading.over()
            except TimeoutError:
                raise overdue(self.call, self.attempts) from None
        self.attempts = [attempt for attempt in self.attempts if attempt.route is not route]
        return await self._ask(route)

    def _left(self) -> float | None:
        """Seconds to the call's deadline, 0 when it has passed; None without one."""
        return None if self.call.deadline_s is None else max(0.0, self._began + self.call.deadline_s - self._parts.clock())

    def _limited(self) -> Route | None:
        """The route that was passed over for its rate limit and opens first, if the call can wait that long."""
        waits = [
            (a.retry_after_s, a.route)
            for a in self.attempts
            if a.failure.kind == "rate_limited" and not a.asked and a.retry_after_s is not None and a.failure.code != QUEUE_FULL
        ]
        wait, route = min(waits, key=lambda pair: pair[0], default=(0.0, None))
        left = self._left()
        return route if wait < (LONGEST_WAIT_S if left is None else left) else None

    async def _turn(self, route: Route) -> Admission | Closed:
        """What the line before this route's provider ends in. Raises what it means that the time for waiting is over."""
        left = self._left()
        try:
            async with asyncio.timeout(LONGEST_WAIT_S if left is None else left):
                turn = await self._turns.wait(self.call.caller, route)
        except TimeoutError:
            raise (refusal(self.attempts) if left is None else overdue(self.call, self.attempts)) from None
        self.attempts = [attempt for attempt in self.attempts if attempt.route is not route]
        return turn

    async def _ask(self, route: Route, turn: Admission | Closed | None = None) -> Reply | None:
        """The reply of one route, or None with an attempt noted. Raises the caller's own fault at once."""
        if route.provider.local and not self.call.repeatable and any(attempt.cause == "death" for attempt in self.attempts):
            return None  # what has ended one engine does not get the next before that is counted
        admission = turn or self._turns.enter(self.call.caller, route)
        if isinstance(admission, Closed):
            failure = Failure(admission.kind, 0, admission.reason, admission.code)
            self._note(route, failure, admission.retry_after_s, asked=False)
            return None
        try:
            return await self._answered(route, admission)
        except asyncio.CancelledError:
            self.given_up.append(route)
            raise
        finally:
            admission.released()  # no effect where there was a verdict

    async def _answered(self, route: Route, admission: Admission) -> Reply | None:
        patience, left, asked, cause = route.provider.first_byte_s, self._left(), True, None
        if left == 0:
            admission.unused()
            raise overdue(self.call, self.attempts)
        self._parts.health.charge(route, calls(self.call, route) - 1)
        try:
            async with asyncio.timeout(min((one for one in (patience, left) if one is not None), default=None)):
                reply, failure = await self._heard(route)
        except TimeoutError:
            if left is not None and (patience is None or left <= patience):
                self._note(route, LATE, None)  # no verdict: it is the caller who was in a hurry
                raise overdue(self.call, self.attempts) from None
            failure = Failure("transport", DeadlineExceeded.status, "its first byte did not come in time")
        except (SecretUnusable, StoreUnavailable) as error:
            failure, asked = Failure("auth", 0, error.message, SECRET_MISSING), False
        except SensoriumError as error:
            if self.call.model == ANY_MODEL and isinstance(error, Unprocessable) and error.code == Unprocessable.code:
                self._unfit = self._unfit or error
                self._note(route, Failure("semantic", error.status, error.message), None, asked=False)
                return None
            if not error.retryable:
                raise
            failure, cause = Failure("transport", error.status, error.message), error.cause
        else:
            if failure is not None:
                return self._refused(route, reply, failure, admission)
            admission.answered()
            return reply
        self._note(route, failure, admission.failed(failure), asked=asked, cause=cause)
        return None

    async def _heard(self, route: Route) -> tuple[Reply, Failure | None]:
        try:
            return await self._begun(route)
        except UpstreamFailed:
            if not route.provider.local or not self.call.repeatable:
                raise
            # The engine died under this call; its address stays open while it restarts, and asking again costs nothing.
            if (loading := route.provider.loading()) is not None:
                await loading.over()
            return await self._begun(route)

    async def _begun(self, route: Route) -> tuple[Reply, Failure | None]:
        reply = await self._parts.send(self.call, route)
        if reply.status == 401 and not route.provider.local:
            # A hosted service says 401 also while its own key store is down: ask once more.
            await reply.close()
            reply = await self._parts.send(self.call, route)
        return await opened(self.call, reply)

    def _refused(self, route: Route, reply: Reply, failure: Failure, admission: Admission) -> Reply | None:
        told = retry_after(reply)
        silent = self.call.optional and failure.kind == "model_unavailable"  # the operation is missing, not the model
        wait = told if silent else admission.failed(failure, told) or told
        final = failure.kind == "semantic" and not (self.call.model == ANY_MODEL and failure.status in NEXT_RUNG)
        if route.provider.local and failure.code != EMPTY and (final or len(self.routes) == 1):
            return reply  # our own engine's words, already in the caller's dialect
        needs = reply.headers.get(NEEDS_RETRY)
        self._note(route, failure, wait, headers=identity(reply), cause=of_status(failure.status, needs) if needs else None)
        if final:
            raise refusal(self.attempts)
        return None

    def _note(
        self,
        route: Route,
        failure: Failure,
        wait: float | None,
        *,
        asked: bool = True,
        headers: Mapping[str, str] | None = None,
        cause: Cause | None = None,
    ) -> None:
        self.attempts.append(Attempt(route, failure, asked, wait, headers or {}, cause))
