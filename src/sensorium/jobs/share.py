"""Fair shares of a lane: start-time fair queueing with a tag that is fixed at submission (jobs.md, section 8).

Whoever submits a thousand requests does not delay the next caller's first one, and the order stays one index scan. Pure memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

REMEMBERED = 64  # runs whose seconds a lane's cost is made of


class Shares:
    """The tags of every lane. `weights` are callers' shares, 1 for whoever is not in it."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        self._time: dict[str, float] = {}
        self._last: dict[tuple[str, str], float] = {}
        self._seconds: dict[str, deque[float]] = {}

    def tag(self, lane: str, caller: str) -> float:
        """The tag of a request that is submitted now: smaller goes first."""
        begins = max(self._time.get(lane, 0.0), self._last.get((lane, caller), 0.0))
        tag = begins + self.cost(lane) / self._weights.get(caller, 1.0)
        self._last[lane, caller] = tag
        return tag

    def claimed(self, lane: str, tag: float) -> None:
        """A request with this tag begins to run."""
        self._time[lane] = max(self._time.get(lane, 0.0), tag)

    def ran(self, lane: str, seconds: float) -> None:
        """A run of this lane took so long."""
        self._seconds.setdefault(lane, deque(maxlen=REMEMBERED)).append(max(seconds, 0.001))

    def cost(self, lane: str) -> float:
        """Seconds that a run of this lane takes, about; 1 as long as none was seen."""
        return self.seen(lane) or 1.0

    def seen(self, lane: str) -> float | None:
        """The same; None as long as no run was seen."""
        seconds = self._seconds.get(lane)
        return median(seconds) if seconds else None

    def waits(self, lane: str, caller: str, tag: float) -> None:
        """A request of an earlier start of the hub waits with this tag."""
        self._last[lane, caller] = max(self._last.get((lane, caller), 0.0), tag)

    def begins(self, lane: str, tag: float) -> None:
        """The smallest tag that waits in a lane when the hub starts."""
        self._time[lane] = max(self._time.get(lane, 0.0), tag - self.cost(lane))
