"""What is known of every route from the calls that went there: may it be asked now, and what does a failure of each class change.

    class              what it changes                                           for how long
    provider_outage    counts in the breaker of (provider, model, modality)      3 in a row open it for 30 s
    transport          the same                                                  the same
    rate_limited       pauses the provider's bucket                              Retry-After, or 2 s doubling to 60 s
    auth               takes the provider's routes out                           until its key changes
    quota_exhausted    takes the provider's routes out                           until its key changes, at most an hour
    model_unavailable  takes this route out                                      until the key changes, at most ten minutes
    semantic           nothing: the caller's own fault                           -

The clock is given; there is no I/O. Reading (`closed_to`) never changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sensorium.routing.breaker import Breaker, Trip
from sensorium.routing.call import Provider, Route
from sensorium.routing.limits import Bucket
from sensorium.wire.failure import Failure, FailureClass

FOREVER = float("inf")
DWELL_S: dict[FailureClass, float] = {"auth": FOREVER, "quota_exhausted": 3600.0, "model_unavailable": 600.0}
# What later callers are told. Never the provider's words: they may quote the call that met them, which was somebody else's.
REASONS: dict[FailureClass, str] = {
    "auth": "it refused the hub's key",
    "quota_exhausted": "its account is out of credit",
    "model_unavailable": "it does not serve this model to this hub",
}
MOST_PLACES = 4096  # of which anything is remembered: open routes take any name that a caller thinks of
Place = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a route is not asked now, and in how many seconds it may be (None: not by waiting)."""

    kind: FailureClass
    reason: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class Mark:
    """A refusal that holds until `until` or until the provider's key is another one."""

    kind: FailureClass
    reason: str
    until: float
    key: int


class Health:
    """One per hub."""

    def __init__(self, clock: Callable[[], float], trip: Trip | None = None) -> None:
        self._clock = clock
        self._trip = trip or Trip()
        self._breakers: dict[Place, Breaker] = {}
        self._buckets: dict[str, Bucket] = {}
        self._marks: dict[str | Place, Mark] = {}

    def closed_to(self, route: Route) -> Closed | None:
        """Why a call may not go to this route now; None when it may."""
        down = route.provider.down()
        if down is not None:
            return Closed("auth" if route.provider.credential.name else "provider_outage", down, None)
        for place in (route.provider.name, _place(route)):
            mark = self._marks.get(place)
            if mark is not None and self._clock() < mark.until and mark.key == route.provider.credential.version():
                return Closed(mark.kind, mark.reason, None if mark.until == FOREVER else mark.until - self._clock())
        breaker = self._breaker(route)
        if breaker.state == "open":
            return Closed("provider_outage", "its last calls failed", breaker.retry_after_s)
        wait = self._bucket(route.provider).wait_s()
        return Closed("rate_limited", "its rate limit is reached", wait) if wait > 0 else None

    def enter(self, route: Route) -> Closed | Admission:
        """Admission of one call to a route that is open, or why it is not."""
        closed = self.closed_to(route)
        if closed is not None:
            return closed
        breaker = self._breaker(route)
        if not breaker.admit():
            return Closed("provider_outage", "another call is trying it after an outage", 1.0)
        self._bucket(route.provider).take()  # there is one: nothing else ran since `closed_to`
        return Admission(self, route)

    def state(self, route: Route) -> str:
        """One word for status pages: `open` routes are asked, `trying` ones by one call at a time, others say why not."""
        closed = self.closed_to(route)
        if closed is not None:
            return closed.kind
        return "trying" if self._breaker(route).state == "half_open" else "open"

    def _failed(self, route: Route, version: int, failure: Failure, retry_after_s: float | None) -> float | None:
        breaker, now = self._breaker(route), self._clock()
        if failure.kind in ("provider_outage", "transport"):
            breaker.failed()
            return retry_after_s
        if failure.kind == "semantic":
            breaker.succeeded()
            self._bucket(route.provider).accepted()
            return None
        breaker.released()
        if failure.kind == "rate_limited":
            return self._bucket(route.provider).refused(retry_after_s)
        if failure.kind == "auth":
            route.provider.credential.refused(version)
        place = _place(route) if failure.kind == "model_unavailable" else route.provider.name
        if len(self._marks) >= MOST_PLACES:
            self._marks = {place: mark for place, mark in self._marks.items() if isinstance(place, str)}
        self._marks[place] = Mark(failure.kind, REASONS[failure.kind], now + DWELL_S[failure.kind], version)
        return None

    def _breaker(self, route: Route) -> Breaker:
        found = self._breakers.get(_place(route))
        if found is None:
            if len(self._breakers) >= MOST_PLACES:
                self._breakers = {place: breaker for place, breaker in self._breakers.items() if breaker.state != "closed"}
            found = self._breakers[_place(route)] = Breaker(self._clock, self._trip)
        return found

    def _bucket(self, provider: Provider) -> Bucket:
        found = self._buckets.get(provider.name)
        if found is None:
            found = self._buckets[provider.name] = Bucket(self._clock, provider.per_minute, provider.burst)
        return found


class Admission:
    """One admitted call to a route. It ends in exactly one of its three methods; a second end is ignored.

    A refusal concerns the key that there was at its beginning: a late answer cannot hurt a newer one.
    """

    def __init__(self, health: Health, route: Route) -> None:
        self._health: Health | None = health
        self._route = route
        self._version = route.provider.credential.version()

    def answered(self) -> None:
        """The route gave an answer."""
        if self._health is not None:
            self._health._breaker(self._route).succeeded()
            self._health._bucket(self._route.provider).accepted()
        self._health = None

    def failed(self, failure: Failure, retry_after_s: float | None = None) -> float | None:
        """The route failed; returns the seconds after which asking again makes sense, if that is known."""
        health, self._health = self._health, None
        return health._failed(self._route, self._version, failure, retry_after_s) if health is not None else None

    def released(self) -> None:
        """The call ended without a verdict: its caller left."""
        if self._health is not None:
            self._health._breaker(self._route).released()
        self._health = None


def _place(route: Route) -> Place:
    return route.provider.name, route.upstream, route.modality
