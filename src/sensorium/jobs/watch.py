"""The requests that somebody looks at, in memory, and waking whoever waits for a change of one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sensorium.jobs.request import Request

MOST = 20_000  # requests


class Watch:
    """`read(caller, id)` gives what is on disk. An unchanged request costs no further look there. All methods belong to one event loop."""

    def __init__(self, read: Callable[[str | None, str], Request]) -> None:
        self._read = read
        self._known: OrderedDict[str, Request] = OrderedDict()
        self._events: dict[str, tuple[asyncio.Event, int]] = {}

    def of(self, caller: str | None, id: str) -> Request:
        """The request as it is now. Raises UnknownRequest, also for somebody else's."""
        known = self._known.get(id)
        if known is None or caller not in (None, known.caller):
            known = self._read(caller, id)
            self._put(known)
        return known

    def put(self, request: Request) -> Request:
        """It is so now, as is on disk. Those who wait for it look again. What nobody has looked at is left there: it may be older news."""
        before = self._known.get(request.id)
        if before is not None and before.ver <= request.ver:
            self._put(request)
        self.wake(request.id)
        return request

    def forget(self, id: str) -> None:
        """It is no more."""
        self._known.pop(id, None)
        self.wake(id)

    def wake(self, id: str) -> None:
        """Whoever waits for a change looks again."""
        waited_for = self._events.pop(id, None)
        if waited_for is not None:
            waited_for[0].set()

    @contextmanager
    def change(self, id: str) -> Iterator[asyncio.Event]:
        """Set at the next change of this request."""
        event, others = self._events.get(id, (asyncio.Event(), 0))
        self._events[id] = event, others + 1
        try:
            yield event
        finally:
            left = self._events.get(id)
            if left is not None and left[0] is event:  # or it was set, and is nobody's now
                if left[1] > 1:
                    self._events[id] = event, left[1] - 1
                else:
                    del self._events[id]

    def _put(self, request: Request) -> None:
        self._known[request.id] = request
        self._known.move_to_end(request.id)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
