"""Who goes next to a provider whose limit is reached: round-robin over callers, first come first served within one.

A caller with a thousand waiting calls delays another's first one by one turn. What comes free wakes exactly those who may use it; between
two such moments nothing runs. Whoever gets a turn gets it with its admission, so that nobody who did not wait goes in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from sensorium.routing.call import Route
from sensorium.routing.health import Admission, Closed, Health, Place, place_of

QUEUE_FULL = "queue_full"


@dataclass(eq=False, slots=True)
class Ticket:
    """One waiting call. `turn` gets its admission, or why it cannot have one."""

    caller: str
    route: Route
    turn: asyncio.Future[Admission | Closed] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Turns:
    """One per hub: the lines before its providers. `sleep` waits for some seconds."""

    def __init__(self, health: Health, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._health, self._sleep = health, sleep
        self._lines: dict[str, Line] = {}

    def enter(self, caller: str, route: Route) -> Admission | Closed:
        """Admission of a call that has not waited, or why not now; those who wait go first."""
        line = self._lines.get(route.provider.name)
        if line is None:
            return self._health.enter(route)
        line.advance()
        closed = self._health.enter(route)
        if isinstance(closed, Closed) and closed.kind == "rate_limited":
            return replace(closed, retry_after_s=self._health.wait_s(route, line.ahead_of(caller)))
        return closed

    async def wait(self, caller: str, route: Route) -> Admission | Closed:
        """The admission when it is this call's turn, or why there will be none: with code `queue_full` when too many wait.

        Whoever stops waiting leaves the line.
        """
        name = route.provider.name
        line = self._lines.setdefault(name, Line(self._health, self._sleep))
        ticket = Ticket(caller, route)
        try:
            refused = line.join(ticket)
            return refused if refused is not None else await ticket.turn
        except asyncio.CancelledError:
            line.leave(ticket)
            raise
        finally:
            if not line.waiting and self._lines.get(name) is line:
                del self._lines[name]
                line.close()

    def waiting(self) -> dict[str, int]:
        """How many calls wait, by provider; those before which nobody waits are left out."""
        return {name: line.waiting for name, line in self._lines.items()}


class Line:
    """Those who wait for one provider, by caller; the caller at the front has the next turn. `waiting` is how many they are."""

    def __init__(self, health: Health, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._health, self._sleep = health, sleep
        self._callers: dict[str, dict[Ticket, None]] = {}
        self._places: dict[Place, dict[Ticket, None]] = {}
        self._keeper: asyncio.Future[None] | None = None
        self.waiting = 0

    def ahead_of(self, caller: str) -> int:
        """How many turns come before that of a call which `caller` would make now."""
        own = len(self._callers.get(caller, ()))
        return own + sum(min(len(tickets), own + 1) for name, tickets in self._callers.items() if name != caller)

    def join(self, ticket: Ticket) -> Closed | None:
        """Wait for a turn, or why not. In a full line the newest call of whoever has most gives way, if that is another caller's."""
        if self.waiting >= ticket.route.provider.queue:
            longest = max(self._callers.values(), key=len, default={})
            if len(longest) <= len(self._callers.get(ticket.caller, ())) + 1:
                return self._full(ticket.route)
            newest = next(reversed(longest))
            self._remove(newest)
            if not newest.turn.done():
                newest.turn.set_result(self._full(newest.route))
        place = place_of(ticket.route)
        known = place in self._places
        self._callers.setdefault(ticket.caller, {})[ticket] = None
        self._places.setdefault(place, {})[ticket] = None
        self.waiting += 1
        self.advance()
        if not known:
            self._keep()
        return None

    def leave(self, ticket: Ticket) -> None:
        """Its call ends without using its turn; if it has one already, the next in line gets it."""
        if not ticket.turn.done() or ticket.turn.cancelled():
            self._remove(ticket)
            return
        turn = ticket.turn.result()
        if isinstance(turn, Admission):
            turn.unused()
            self.advance()

    def advance(self) -> None:
        """Give turns to all who may go now."""
        while (ticket := self._next()) is not None:
            self._remove(ticket)
            rest = self._callers.pop(ticket.caller, None)
            if rest:
                self._callers[ticket.caller] = rest  # at the end again
            if not ticket.turn.done():
                ticket.turn.set_result(self._health.enter(ticket.route))

    def close(self) -> None:
        """Nobody waits any more."""
        if self._keeper is not None:
            self._keeper.cancel()

    def _next(self) -> Ticket | None:
        free = {place for place, tickets in self._places.items() if self._may_go(next(iter(tickets)).route)}
        if not free:
            return None
        return next(one for tickets in self._callers.values() for one in tickets if place_of(one.route) in free)

    def _may_go(self, route: Route) -> bool:
        """Whether its limits let a call through, or something else has happened that those who wait must be told."""
        closed = self._health.closed_to(route)
        return closed is None or closed.kind != "rate_limited"

    def _keep(self) -> None:
        self.close()
        if self.waiting:
            self._keeper = asyncio.ensure_future(self._kept())

    async def _kept(self) -> None:
        while self.waiting:
            await self._sleep(min(self._health.wait_s(next(iter(tickets)).route) for tickets in self._places.values()))
            self.advance()

    def _full(self, route: Route) -> Closed:
        reason = f"{self.waiting} calls wait for its rate limit already"
        return Closed("rate_limited", reason, self._health.wait_s(route, self.waiting), QUEUE_FULL)

    def _remove(self, ticket: Ticket) -> None:
        place = place_of(ticket.route)
        mine, there = self._callers.get(ticket.caller, {}), self._places.get(place, {})
        if ticket not in mine:
            return
        del mine[ticket], there[ticket]
        if not mine:
            del self._callers[ticket.caller]
        if not there:
            del self._places[place]
        self.waiting -= 1
