"""What becomes of a request whose run failed: another run, later or at once, or its end (jobs.md, section 9). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sensorium.errors import Cause
from sensorium.jobs.request import Request

MOST_RUNS: Final = 10
MOST_DEATHS: Final = 2
BACKOFF_S, LONGEST_BACKOFF_S, JITTER = 0.5, 60.0, 0.25
BUSY_S: Final = 5.0  # where the provider does not say when; twice as long each time it says so again
THROTTLED: Final = "throttled"
FAILED: Final = "failed"  # runs by the class of their failure
THROTTLED_S: Final = 3600.0  # of being told to come back later, after which the request fails


@dataclass(frozen=True, slots=True)
class Again:
    """Another run after `delay_s`. `run` and `death` are what this one counts, `cools` says that its whole lane waits."""

    delay_s: float
    run: int = 1
    death: int = 0
    cools: bool = False


def throttled(request: Request, now: float) -> tuple[float, int]:
    """When the first of its last runs began that were all told to come back later, and how many they were before this one; between runs
    that is kept in `told` (THROTTLED). What it waited for its turn before is not counted."""
    since, times = request.told.get(THROTTLED) or (request.claimed_at or now, 0)
    return float(since), int(times)


def failed(request: Request, verdict: str) -> int:
    """How many runs before this one failed in that way; between runs that is kept in `told` (FAILED)."""
    return int(request.told.get(FAILED, {}).get(verdict, 0))


def kept(request: Request, outcome: str, again: Again, now: float) -> dict[str, Any]:
    """What the next run is told of this one and those before."""
    since, times = throttled(request, now)
    counts = {**request.told.get(FAILED, {})}
    if again.run:
        counts[outcome] = failed(request, outcome) + 1
    return ({THROTTLED: (since, times + 1)} if again.cools else {}) | ({FAILED: counts} if counts else {})


def after(verdict: Cause, request: Request, chance: float, retry_after_s: float | None, now: float) -> Again | None:
    """What follows on a failed run; None: the request fails. `chance` from 0 to 1 spreads the tries."""
    rules = request.rules
    if verdict == "busy" and not rules.no_retry:
        since, times = throttled(request, now)
        wait = retry_after_s or min(BUSY_S * 2**times, LONGEST_BACKOFF_S)
        return Again(wait, run=0, cools=True) if now + wait - since <= THROTTLED_S else None
    if verdict == "final" or rules.no_retry or request.runs >= MOST_RUNS:
        return None
    if verdict == "death":
        return Again(0.0, death=1) if request.deaths + 1 < MOST_DEATHS else None
    if failed(request, verdict) >= rules.retries.get(verdict, MOST_RUNS):
        return None
    spread = 1 + JITTER * (2 * chance - 1)
    return Again(min(BACKOFF_S * 2 ** (request.runs - 1), LONGEST_BACKOFF_S) * spread)
