"""How long a supervisor bears with an engine process: until it must be ready, how long it may be silent, when it is started again.

Pure; the clock is given, in seconds. It knows no process: `look` is to be called about every second, and says why one is to be ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

STEADY_S: Final = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
SETUP_PAUSE_S, BROKEN_PAUSE_S, SETUPS = 1.0, 300.0, 3  # jobs.md, section 12: of a process that was never ready
SUSPECT_S: Final = 30.0
MOST_S: Final = 2.0  # that one look counts: when it was this process that stood still, nobody else is to blame


class Patience:
    """One per engine, over all its processes.

    `start_s` is the time in which one must be ready, `hang_s` the time in which it must be heard of once it has been (None: any).
    `broken` says that too many in a row were never ready.
    """

    def __init__(self, clock: Callable[[], float], start_s: float | None = None, hang_s: float | None = None) -> None:
        self._clock, self._start_s, self._hang_s = clock, start_s, hang_s
        self._deaths = self._setups = 0
        self.broken = False
        self.born()

    def born(self) -> None:
        """A process has begun."""
        self._looked = self._clock()
        self._ready_at: float | None = None
        self._heard = False
        self.age_s = self.silent_s = 0.0

    def heard(self) -> None:
        """It has said something."""
        self._heard, self.silent_s = True, 0.0

    def ready(self) -> None:
        """It can answer calls."""
        self._ready_at, self.broken, self._setups = self._clock(), False, 0

    @property
    def suspect(self) -> bool:
        """Whether it has been silent for so long that somebody should know."""
        return self._heard and self.silent_s >= SUSPECT_S

    def look(self) -> str | None:
        """Why the process is to be ended now; None as long as it may go on."""
        now = self._clock()
        passed = min(now - self._looked, MOST_S)
        self._looked = now
        self.age_s += passed
        self.silent_s += passed if self._heard else 0.0
        if self._hang_s is not None and self.silent_s >= self._hang_s:
            return f"it gave no sign of life for {self._hang_s:g} seconds and was ended"
        if self._start_s is not None and self._ready_at is None and self.age_s >= self._start_s:
            return f"its models were not loaded after {self._start_s:g} seconds and it was ended"
        return None

    def died(self) -> float:
        """The process has ended; seconds until the next one is started."""
        if self._ready_at is None:
            self._setups += 1
            self.broken = self._setups >= SETUPS
            return BROKEN_PAUSE_S if self.broken else SETUP_PAUSE_S * 2.0 ** (self._setups - 1)
        steady = self._clock() - self._ready_at >= STEADY_S
        self._deaths = 1 if steady else self._deaths + 1
        return pause_after(self._deaths)


def pause_after(deaths: int) -> float:
    """Seconds to wait after so many deaths in a row of processes that had been ready: none after the first, then doubling to a bound."""
    return 0.0 if deaths <= 1 else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(deaths - 2, 20))
