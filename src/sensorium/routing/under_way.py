"""The calls that are under way on each route, from the moment that they are sent until their reply is closed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.dispatch import Send
from sensorium.routing.health import Place, place_of


class UnderWay:
    """A transport that counts what goes through it to `send`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._counts: Counter[Place] = Counter()

    async def __call__(self, call: Call, route: Route) -> Reply:
        """The reply of `send`."""
        self._counts[place_of(route)] += 1
        try:
            reply = await self._send(call, route)
        except BaseException:
            self._left(route)
            raise
        closed = False

        async def close() -> None:
            nonlocal closed
            if not closed:
                closed = True
                self._left(route)
            await reply.close()

        return replace(reply, close=close)

    def on(self, route: Route) -> int:
        """How many calls are under way there; on an open route, to any model of its provider and modality."""
        mine = route.provider.name, route.modality
        if route.open:
            return sum(count for (provider, _, modality), count in self._counts.items() if (provider, modality) == mine)
        return self._counts[place_of(route)]

    def by_provider(self) -> Counter[str]:
        """How many calls are under way, by provider; those with none are left out."""
        counts: Counter[str] = Counter()
        for (provider, _, _), count in self._counts.items():
            counts[provider] += count
        return counts

    def _left(self, route: Route) -> None:
        self._counts[place_of(route)] -= 1
        if not self._counts[place_of(route)]:
            del self._counts[place_of(route)]
