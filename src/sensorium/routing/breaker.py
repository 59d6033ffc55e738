"""A circuit breaker: after several failures in a row nobody is sent there for a while, then one real call tries it.

One breaker per (provider, model, modality), so that an outage of pictures never blocks chat. The clock is given; there is no I/O.
After Nygard, Release It!, "Circuit Breaker"; reading the state never uses up the trial call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class Trip:
    """When a breaker opens and for how long: failures in a row, seconds, trial calls at a time."""

    threshold: int = 3
    cooldown_s: float = 30.0
    trials: int = 1


class Breaker:
    """Closed lets calls through; open refuses them until its cooldown is over; half open admits `trials` calls at a time.

    Every admitted call ends in exactly one of `succeeded`, `failed` and `released` (it said nothing about the route:
    the caller left, or the route's own limit was reached).
    """

    def __init__(self, clock: Callable[[], float], trip: Trip | None = None) -> None:
        self._clock = clock
        self._trip = trip or Trip()
        self._failures = 0
        self._opened: float | None = None
        self._trying = 0

    @property
    def state(self) -> State:
        """What a call would meet now."""
        if self._opened is None:
            return "closed"
        return "open" if self._clock() < self._opened + self._trip.cooldown_s else "half_open"

    @property
    def retry_after_s(self) -> float:
        """Seconds until the next trial; 0 unless open."""
        if self._opened is None:
            return 0.0
        return max(0.0, self._opened + self._trip.cooldown_s - self._clock())

    @property
    def open_for_s(self) -> float | None:
        """Seconds since it opened, or since the last trial failed; None when it is closed."""
        return None if self._opened is None else self._clock() - self._opened

    def admit(self) -> bool:
        """Whether this call may go; in the half-open state it then is a trial."""
        state = self.state
        if state == "half_open" and self._trying < self._trip.trials:
            self._trying += 1
            return True
        return state == "closed"

    def succeeded(self) -> None:
        """An admitted call was answered, if only by an error of its caller."""
        self._failures, self._opened, self._trying = 0, None, 0

    def failed(self) -> None:
        """An admitted call met an outage. Late failures of calls admitted before the breaker opened change nothing."""
        self._failures += 1
        if (self._opened is None and self._failures >= self._trip.threshold) or self._trying:
            self._opened, self._trying = self._clock(), 0

    def released(self) -> None:
        """An admitted call ended without a verdict."""
        self._trying = max(0, self._trying - 1)
