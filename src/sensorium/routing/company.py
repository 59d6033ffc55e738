"""Calls that run side by side in one engine of this hub end together when its process does, and only one of them may be why.

Of several that an engine ended under, none has a death to its name: each is run again with nobody beside it, and what then dies alone has.
An engine that ended itself because a cancelled job did not stop is nobody's fault either (jobs.md, sections 9 and 10).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import replace

from sensorium.errors import SensoriumError
from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.dispatch import Send

MOST_SUSPECTS = 4096  # an older one that is forgotten is at worst run beside others once more


class Company:
    """A transport before `send` that knows who is in which engine with whom."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._engines: dict[str, _Engine] = {}
        self._suspects: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, call: Call, route: Route) -> Reply:
        """The reply of `send`, once a suspect is alone in its engine, and anybody else is with no suspect there."""
        if not route.provider.own:
            return await self._send(call, route)
        key = call.attempt[0] if call.attempt is not None else call.id
        engine = self._engines.setdefault(route.provider.name, _Engine())
        visit = await engine.entered(alone=key in self._suspects)
        fate = route.provider.fate()

        async def blamed(error: SensoriumError) -> None:
            if error.cause != "death":
                return
            accompanied, let_go = engine.broke(visit), await fate()
            if accompanied or let_go:
                error.cause = "connection_error"
            if accompanied and not let_go:
                self._suspect(key)

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in reply.chunks:
                    yield chunk
            except SensoriumError as error:
                await blamed(error)
                raise
            self._suspects.pop(key, None)

        async def close() -> None:
            engine.left(visit)
            await reply.close()

        try:
            reply = await self._send(call, route)
        except BaseException as error:
            if isinstance(error, SensoriumError):
                await blamed(error)
            engine.left(visit)
            raise
        return replace(reply, chunks=chunks(), close=close)

    def _suspect(self, key: str) -> None:
        self._suspects[key] = None
        self._suspects.move_to_end(key)
        while len(self._suspects) > MOST_SUSPECTS:
            self._suspects.popitem(last=False)


class _Visit:
    """One call in an engine. `accompanied` is set when the engine has ended under it."""

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self.accompanied: bool | None = None


class _Engine:
    """Who is in one engine now, or waits in its socket."""

    def __init__(self) -> None:
        self._inside: set[_Visit] = set()
        self._wanting = 0
        self._changed = asyncio.Event()

    async def entered(self, alone: bool) -> _Visit:
        """A visit, when nobody else is there, or when nobody there is or wants to be alone."""
        self._wanting += alone
        try:
            while self._inside if alone else (self._wanting or any(visit.alone for visit in self._inside)):
                await self._changed.wait()
            visit = _Visit(alone)
            self._inside.add(visit)
            return visit
        finally:
            self._wanting -= alone
            self._change()

    def left(self, visit: _Visit) -> None:
        """It is over."""
        self._inside.discard(visit)
        self._change()

    def broke(self, visit: _Visit) -> bool:
        """The engine has ended under this visit: whether others were there. All who are there now have lost the same process."""
        if visit.accompanied is None:
            for one in self._inside:
                one.accompanied = len(self._inside) > 1
        return bool(visit.accompanied)

    def _change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
