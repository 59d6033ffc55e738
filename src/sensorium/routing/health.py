"""What is known of every route from the calls that went there: may it be asked now, and what does a failure of each class change.

    class              what it changes                                           for how long
    provider_outage    counts in the breaker of (provider, model, modality)      3 in a row open it for 30 s
    transport          the same; nothing where the hub runs the engine itself    the same
    rate_limited       pauses (provider, model, modality); no breaker            Retry-After, or 2 s doubling to 60 s
    auth               takes the provider's routes out; a key that cannot be     until its key changes
                       sent is told as `secret_missing`
    quota_exhausted    takes the provider's routes out                           until its key changes, at most an hour
    model_unavailable  takes this route out                                      until the key changes, at most ten minutes
    semantic           nothing: the caller's own fault                           -

The clock is given; there is no I/O. Reading (`closed_to`) never changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from sensorium.routing.breaker import Breaker, Trip
from sensorium.routing.call import Provider, Route
from sensorium.routing.limits import Bucket, Pause
from sensorium.wire.failure import Failure, FailureClass

FOREVER = float("inf")
DWELL_S: dict[FailureClass, float] = {"auth": FOREVER, "quota_exhausted": 3600.0, "model_unavailable": 600.0}
SECRET_MISSING = "secret_missing"
LOADING = "model_loading"
REACTION: dict[FailureClass, str] = {
    "provider_outage": "3 in a row close it for 30 s",
    "transport": "3 in a row close it for 30 s",
    "rate_limited": "it pauses",
    "auth": "its provider is out until its key changes",
    "quota_exhausted": "its provider is out until its key changes, at most an hour",
    "model_unavailable": "it is out until the key changes, at most ten minutes",
    "semantic": "nothing changes: the call's own fault",
    "overtaken": "nothing changes",
}
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
    """Why a route is not asked now, and in how many seconds it may be (None: not by waiting). `code` says it more exactly than `kind`."""

    kind: FailureClass
    reason: str
    retry_after_s: float | None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A refusal that holds until `until` or until the provider's key is another one."""

    kind: FailureClass
    reason: str
    until: float
    key: int
    code: str | None
    since: float


@dataclass(frozen=True, slots=True)
class Condition:
    """A route as a status page tells it: `open` (asked), `trying` (by one call at a time, after an outage), `limited`, `loading` or `out`.

    Times in seconds: since when, and when it is asked again; None where that is unknown. `last_error` is the class of the last failure,
    `tokens` the calls that its provider's limit lets through now (None: there is no limit).
    """

    state: Literal["open", "trying", "limited", "loading", "out"]
    reason: str | None
    since_s: float | None
    next_try_s: float | None
    last_error: FailureClass | None
    last_error_s: float | None
    tokens: float | None


class Health:
    """One per hub."""

    def __init__(self, clock: Callable[[], float], trip: Trip | None = None) -> None:
        self._clock = clock
        self._trip = trip or Trip()
        self._breakers: dict[Place, Breaker] = {}
        self._buckets: dict[str, Bucket] = {}
        self._pauses: dict[Place, Pause] = {}
        self._marks: dict[str | Place, Mark] = {}
        self._errors: dict[Place, tuple[FailureClass, float]] = {}
        self._answers: dict[tuple[str, str], float] = {}
        self._changed: dict[str, int] = {}

    def closed_to(self, route: Route) -> Closed | None:
        """Why a call may not go to this route now; None when it may."""
        down = route.provider.down()
        if down is not None:
            return Closed("auth", down, None, SECRET_MISSING) if route.provider.credential.name else Closed("provider_outage", down, None)
        loading = route.provider.loading()
        if loading is not None:
            return Closed("provider_outage", loading.said, loading.retry_after_s, LOADING)
        mark = self._mark(route)
        if mark is not None:
            return Closed(mark.kind, mark.reason, None if mark.until == FOREVER else mark.until - self._clock(), mark.code)
        breaker = self._breaker(route)
        if breaker.state == "open":
            return Closed("provider_outage", "its last calls failed", breaker.retry_after_s)
        wait = self.wait_s(route)
        return Closed("rate_limited", "its rate limit is reached", wait) if wait > 0 else None

    def wait_s(self, route: Route, ahead: int = 0) -> float:
        """Seconds until the limits of this route let a call through when `ahead` others go before it."""
        return max(self._bucket(route.provider).wait_s(ahead), self._pause(route).wait_s())

    def enter(self, route: Route) -> Closed | Admission:
        """Admission of one call to a route that is open, or why it is not."""
        closed = self.closed_to(route)
        if closed is not None:
            return closed
        breaker = self._breaker(route)
        trial = breaker.state == "half_open"
        if not breaker.admit():
            return Closed("provider_outage", "another call is trying it after an outage", 1.0)
        self._bucket(route.provider).take()  # there is one: nothing else ran since `closed_to`
        return Admission(self, route, trial)

    def charge(self, route: Route, calls: int) -> None:
        """An admitted call is `calls` more for the route's provider than the one that was counted."""
        self._bucket(route.provider).charge(calls)

    def condition(self, route: Route) -> Condition:
        """What a status page tells of this route."""
        closed, breaker, mark, now = self.closed_to(route), self._breaker(route), self._mark(route), self._clock()
        kind, at = self._errors.get(place_of(route), (None, now))
        error = (kind, None if kind is None else now - at, self._bucket(route.provider).tokens)
        if closed is not None:
            down = route.provider.down() is not None
            if closed.code == LOADING:
                return Condition("loading", closed.reason, None, closed.retry_after_s, *error)
            since = None if down else now - mark.since if mark else breaker.open_for_s
            return Condition("limited" if closed.kind == "rate_limited" else "out", closed.reason, since, closed.retry_after_s, *error)
        if breaker.state == "half_open":
            return Condition("trying", "it is tried again after an outage", breaker.open_for_s, 0.0, *error)
        return Condition("open", None, None, None, *error)

    def failed_names(self, route: Route) -> list[str]:
        """The provider's models of this route's modality that have failed, as far as it is remembered."""
        return [upstream for provider, upstream, modality in self._errors if (provider, modality) == (route.provider.name, route.modality)]

    def answered_at(self, route: Route) -> float | None:
        """When the provider last answered a call of this modality, on this health's clock; None when it has not."""
        return self._answers.get((route.provider.name, route.modality))

    def forget(self, providers: Collection[str]) -> None:
        """These providers are others now, or gone: nothing that is known of them holds, and no call that is still out counts."""
        for name in providers:
            self._changed[name] = self._changed.get(name, 0) + 1
            self._buckets.pop(name, None)
        self._breakers = {place: breaker for place, breaker in self._breakers.items() if place[0] not in providers}
        self._pauses = {place: pause for place, pause in self._pauses.items() if place[0] not in providers}
        self._errors = {place: error for place, error in self._errors.items() if place[0] not in providers}
        self._answers = {key: at for key, at in self._answers.items() if key[0] not in providers}
        self._marks = {key: mark for key, mark in self._marks.items() if (key if isinstance(key, str) else key[0]) not in providers}

    def _mark(self, route: Route) -> Mark | None:
        """The refusal that keeps calls from this route, if one holds."""
        for place in (route.provider.name, place_of(route)):
            mark = self._marks.get(place)
            if mark is not None and self._clock() < mark.until and mark.key == route.provider.credential.version():
                return mark
        return None

    def _answered(self, route: Route) -> None:
        self._breaker(route).succeeded()
        self._pause(route).accepted()
        self._answers[route.provider.name, route.modality] = self._clock()

    def _failed(self, route: Route, version: int, failure: Failure, retry_after_s: float | None, trial: bool = False) -> float | None:
        breaker, now = self._breaker(route), self._clock()
        if failure.kind != "semantic":
            if len(self._errors) >= MOST_PLACES:
                self._errors.clear()
            self._errors[place_of(route)] = (failure.kind, now)
        if failure.kind == "transport" and route.provider.own:  # its process is watched, and whether a new one is there is known
            breaker.released()
            return retry_after_s
        if failure.kind in ("provider_outage", "transport"):
            breaker.failed()
            return retry_after_s
        if failure.kind == "semantic":
            self._answered(route)
            return None
        if trial:
            breaker.released()
        if failure.kind == "rate_limited":
            return self._pause(route).refused(retry_after_s)
        if failure.kind == "auth" and failure.code != SECRET_MISSING:
            route.provider.credential.refused(version)
        place = place_of(route) if failure.kind == "model_unavailable" else route.provider.name
        if len(self._marks) >= MOST_PLACES:
            self._marks = {place: mark for place, mark in self._marks.items() if isinstance(place, str)}
        reason = failure.message if failure.code == SECRET_MISSING else REASONS[failure.kind]
        self._marks[place] = Mark(failure.kind, reason, now + DWELL_S[failure.kind], version, failure.code, now)
        return None

    def _breaker(self, route: Route) -> Breaker:
        found = self._breakers.get(place_of(route))
        if found is None:
            if len(self._breakers) >= MOST_PLACES:
                self._breakers = {place: breaker for place, breaker in self._breakers.items() if breaker.state != "closed"}
            found = self._breakers[place_of(route)] = Breaker(self._clock, self._trip)
        return found

    def _bucket(self, provider: Provider) -> Bucket:
        found = self._buckets.get(provider.name)
        if found is None:
            found = self._buckets[provider.name] = Bucket(self._clock, provider.per_minute, provider.burst)
        return found

    def _pause(self, route: Route) -> Pause:
        found = self._pauses.get(place_of(route))
        if found is None:
            if len(self._pauses) >= MOST_PLACES:
                self._pauses = {place: pause for place, pause in self._pauses.items() if pause.wait_s() > 0}
            found = self._pauses[place_of(route)] = Pause(self._clock)
        return found


class Admission:
    """One admitted call to a route. It ends in exactly one of its four methods; a second end is ignored.

    A refusal concerns the key that there was at its beginning: a late answer cannot hurt a newer one. Neither does the verdict count
    when the settings have changed the provider since.
    """

    def __init__(self, health: Health, route: Route, trial: bool) -> None:
        self._health: Health | None = health
        self._route, self._trial = route, trial
        self._version = route.provider.credential.version()
        self._provider = health._changed.get(route.provider.name, 0)

    def answered(self) -> None:
        """The route gave an answer."""
        health = self._ended()
        if health is not None:
            health._answered(self._route)

    def failed(self, failure: Failure, retry_after_s: float | None = None) -> float | None:
        """The route failed; returns the seconds after which asking again makes sense, if that is known."""
        health = self._ended()
        return health._failed(self._route, self._version, failure, retry_after_s, self._trial) if health is not None else None

    def released(self) -> None:
        """The call ended without a verdict: its caller left."""
        health = self._ended()
        if health is not None and self._trial:
            health._breaker(self._route).released()

    def _ended(self) -> Health | None:
        health, self._health = self._health, None
        return health if health is not None and health._changed.get(self._route.provider.name, 0) == self._provider else None

    def unused(self) -> None:
        """The call was never made: what it took of the rate limit goes back."""
        if self._health is not None:
            self._health._bucket(self._route.provider).put_back()
        self.released()


def place_of(route: Route) -> Place:
    """What a breaker and a pause belong to."""
    return route.provider.name, route.upstream, route.modality
