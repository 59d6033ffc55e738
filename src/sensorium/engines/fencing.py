"""One attempt at a request of the hub's queue at a time: a run that was given up must not go on beside the one that replaced it.

The hub writes the request's id and the attempt's number on every call it makes for its queue; calls without them are nobody's run.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from sensorium.errors import BadRequest, SensoriumError

REQUEST: Final = "x-sensorium-request"
ATTEMPT: Final = "x-sensorium-attempt"
LONGEST: Final = 128  # characters of an id
REMEMBERED: Final = 4096  # requests; an older one is forgotten, which costs a late attempt of it at worst one run too many


class StaleAttempt(SensoriumError):
    """A later attempt at the same request is known here: this one counts no more."""

    code, status, kind = "stale_attempt", 409, "invalid_request_error"


@dataclass(slots=True, eq=False)
class _Run:
    attempt: int
    scope: asyncio.Timeout
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Fence:
    """The attempts that this engine has seen."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._latest: OrderedDict[str, int] = OrderedDict()
        self._running: dict[str, list[_Run]] = {}

    @asynccontextmanager
    async def held(self, request: str, attempt: str) -> AsyncIterator[None]:
        """Inside, this attempt may run: earlier ones of the same request have been ended. Calls of one attempt may run beside each other.

        Raises StaleAttempt when a later one is known, or comes while this one runs, BadRequest for an attempt that is no number.
        """
        if not request:
            yield
            return
        if len(request) > LONGEST or not (attempt.isascii() and attempt.isdecimal() and len(attempt) < 10):
            raise BadRequest(f"{REQUEST} takes an id of at most {LONGEST} characters, {ATTEMPT} a whole number", param=ATTEMPT)
        number = int(attempt)
        self._see(request, number)
        try:
            async with asyncio.timeout(None) as scope:
                run = _Run(number, scope)
                self._running.setdefault(request, []).append(run)
                try:
                    await self._end_older(request, number)
                    yield
                finally:
                    self._over(request, run)
        except TimeoutError:
            if not scope.expired():
                raise
            raise StaleAttempt(f"attempt {number} at this request was ended: a later one has come") from None

    def _see(self, request: str, attempt: int) -> None:
        latest = self._latest.get(request, attempt)
        if attempt < latest:
            raise StaleAttempt(f"attempt {attempt} at this request comes after attempt {latest}, and is not run")
        self._latest[request] = attempt
        self._latest.move_to_end(request)
        while len(self._latest) > self._remembered:
            self._latest.popitem(last=False)

    async def _end_older(self, request: str, attempt: int) -> None:
        """Have runs of earlier attempts stop, and wait until they have."""
        older = [run for run in self._running[request] if run.attempt < attempt]
        for run in older:
            if not run.scope.expired():
                run.scope.reschedule(asyncio.get_running_loop().time())
        for run in older:
            await run.over.wait()

    def _over(self, request: str, run: _Run) -> None:
        run.over.set()
        self._running[request].remove(run)
        if not self._running[request]:
            del self._running[request]
