"""How many requests may run: of each lane, of each caller, in all. It counts what waits and runs; the rows are the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

from sensorium.jobs.request import Request


class Lanes:
    """`at_once` requests run in all, `limit(lane)` of a lane, and of some callers as many as `most_running` says.

    `ready(lane)` tells whether somebody is there to run its requests; one that is not keeps them waiting.
    """

    def __init__(
        self,
        at_once: int,
        limit: Callable[[str], int],
        most_running: Mapping[str, int] = MappingProxyType({}),
        ready: Callable[[str], bool] = lambda lane: True,
    ) -> None:
        self._at_once, self._limit, self._most_running, self._ready = at_once, limit, most_running, ready
        self.waiting: Counter[str] = Counter()
        self.waiting_of: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self._running_of: Counter[str] = Counter()
        self._cool: dict[str, float] = {}
        self._first = 0

    def came(self, lane: str, caller: str, count: int = 1) -> None:
        """So many more wait (fewer, when it is negative)."""
        self.waiting[lane] += count
        self.waiting_of[caller] += count
        for counts, key in ((self.waiting, lane), (self.waiting_of, caller)):
            if not counts[key]:
                del counts[key]

    def began(self, request: Request) -> None:
        """A waiting one runs."""
        self.came(request.lane, request.caller, -1)
        self.running[request.lane] += 1
        self._running_of[request.caller] += 1

    def stopped(self, request: Request) -> None:
        """A running one runs no longer."""
        self.running[request.lane] -= 1
        self._running_of[request.caller] -= 1

    def cool(self, lane: str, until: float) -> None:
        """Let nothing of a lane begin before then: its provider asked for that."""
        self._cool[lane] = max(until, self._cool.get(lane, 0.0))

    def unready(self) -> list[str]:
        """The lanes in which requests wait that nobody is there to run."""
        return [lane for lane in self.waiting if not self._ready(lane)]

    @property
    def slots(self) -> int:
        """How many may begin in all."""
        return max(0, self._at_once - self.running.total())

    def free(self, now: float) -> list[tuple[str, int]]:
        """(lane, how many of it may begin, as far as the lane goes). Lanes take turns at being the first, so that none takes all slots for
        ever. Some may have nothing that can begin: all they have may be delayed, or of callers who have enough."""
        if not self.slots:
            return []
        lanes = [lane for lane in self.waiting if self._cool.get(lane, 0.0) <= now and self._ready(lane)]
        self._first = (self._first + 1) % max(1, len(lanes))
        turns = lanes[self._first :] + lanes[: self._first]
        rooms = [(lane, min(self._limit(lane) - self.running[lane], self.waiting[lane])) for lane in turns]
        return [(lane, room) for lane, room in rooms if room > 0]

    def caps(self) -> dict[str, int]:
        """How many more of some callers' requests may run."""
        return {caller: max(0, most - self._running_of[caller]) for caller, most in self._most_running.items()}
