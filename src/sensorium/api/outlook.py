"""What a waiting caller may expect: in how many seconds its request may be over, and what its model does meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from sensorium.jobs.request import Request
from sensorium.routing.call import Route
from sensorium.routing.catalog import Catalog

READY, LOADING, DOWN = "ready", "loading", "down"


class Outlook:
    """`cost(lane)` are the seconds that a run takes, about (None: not known yet), `limit(lane)` says how many run at once, `states` gives
    the state of each local engine by its name. `now` is in seconds since the epoch."""

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        cost: Callable[[str], float | None],
        limit: Callable[[str], int],
        states: Callable[[], Mapping[str, str]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._catalog, self._cost, self._limit, self._states, self._now = catalog, cost, limit, states, now
        self._indexed: Catalog | None = None
        self._routes: dict[str, list[Route]] = {}

    def __call__(self, request: Request, position: int) -> tuple[float | None, str | None]:
        """Seconds until an unfinished request may be over, and the state of its model; None where nothing is known."""
        cost = self._cost(request.lane)
        return (None if cost is None else round(self._left(request, position, cost), 1)), self._state(request.lane)

    def _left(self, request: Request, position: int, cost: float) -> float:
        if request.waits:
            return cost * (position // max(1, self._limit(request.lane)) + 1)
        return max(0.0, cost - (self._now() - (request.claimed_at or self._now())))

    def _state(self, lane: str) -> str | None:
        """The best state among those who could answer. A model on this machine loads until its engine is ready."""
        states = self._states()
        up = [states.get(route.provider.name, READY) == READY for route in self._of(lane) if route.provider.down() is None]
        if up:
            return READY if any(up) else LOADING
        return DOWN if self._of(lane) else None

    def _of(self, lane: str) -> Sequence[Route]:
        catalog = self._catalog()
        if catalog is not self._indexed:
            self._indexed, self._routes = catalog, {}
            for route in catalog.routes:
                self._routes.setdefault(route.id, []).append(route)
        return self._routes.get(lane, ())
