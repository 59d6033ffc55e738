"""The calls that are under way on each route, from the moment that they are sent until their reply is closed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.dispatch import Send


class UnderWay:
    """A transport that counts what goes through it to `send`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._counts: Counter[tuple[str, str, str]] = Counter()

    async def __call__(self, call: Call, route: Route) -> Reply:
        """The reply of `send`."""
        self._counts[_place(route)] += 1
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
        return self._counts[_place(route)]

    def _left(self, route: Route) -> None:
        self._counts[_place(route)] -= 1
        if not self._counts[_place(route)]:
            del self._counts[_place(route)]


def _place(route: Route) -> tuple[str, str, str]:
    return route.provider.name, route.upstream, route.modality
