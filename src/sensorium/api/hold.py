"""How long a status poll that would tell nothing new is held: not at all while few ask, up to a second when thousands do (jobs.md,
section 11). A held poll is answered as soon as there is something new, so completions are seen sooner and the load is less."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

IDLE, FULL = 50.0, 2000.0  # status requests per second: nothing is held up to the first, the longest from the second on
LONGEST_S: Final = 1.0
SMOOTHED_S: Final = 1.0  # over which the rate is measured
MOST_SEEN: Final = 100_000  # polls that are remembered
Seen = tuple[int, int]  # a request's version, and how much it has logged


class Hold:
    """Remembers what each poller was told last. `now` counts seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._rate, self._at = 0.0, now()
        self._seen: OrderedDict[tuple[str, str], Seen] = OrderedDict()

    def counted(self) -> float:
        """One status request more; the seconds for which one with nothing new is held."""
        now = self._now()
        # Each request adds its share of a rate that fades within the second.
        faded = max(0.0, 1.0 - (now - self._at) / SMOOTHED_S)
        self._rate, self._at = self._rate * faded + 1.0 / SMOOTHED_S, now
        return LONGEST_S * min(1.0, max(0.0, (self._rate - IDLE) / (FULL - IDLE)))

    def told(self, caller: str, id: str) -> Seen | None:
        """What the caller was told about the request before; None for nothing."""
        return self._seen.get((caller, id))

    def remember(self, caller: str, id: str, told: Seen) -> None:
        """What the caller is told now."""
        self._seen[caller, id] = told
        self._seen.move_to_end((caller, id))
        if len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)

    def forget(self, caller: str, id: str) -> None:
        """The request is over."""
        self._seen.pop((caller, id), None)
