"""What a provider lets us send: a token bucket, and a pause of one model where it says "too many" all the same.

NVIDIA allows about 40 requests a minute and key, and answers 429 without saying for how long. The clock is given; there is no I/O.
"""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
WHOLE, INSTANT_S = 1 - 1e-9, 1e-6  # of a token, of a pause: what has been waited for is there, whatever the last bit of a sum says


class Bucket:
    """`per_minute` calls a minute, `burst` of them at once; no limit when `per_minute` is None."""

    def __init__(self, clock: Callable[[], float], per_minute: float | None, burst: int) -> None:
        self._clock = clock
        self._rate = per_minute / 60 if per_minute else None
        self._burst = float(burst)
        self._tokens = self._burst
        self._at = clock()

    @property
    def tokens(self) -> float | None:
        """How many calls may go at once now; None when there is no limit."""
        self._fill()
        return None if self._rate is None else self._tokens

    def wait_s(self, ahead: int = 0) -> float:
        """Seconds until a call may go when `ahead` others go before it; 0 when one may go now."""
        self._fill()
        if self._rate is None or self._tokens - ahead >= WHOLE:
            return 0.0
        return (1 + ahead - self._tokens) / self._rate

    def take(self) -> bool:
        """Use up one call, if one may go now."""
        if self.wait_s() > 0:
            return False
        if self._rate is not None:
            self._tokens -= 1
        return True

    def put_back(self) -> None:
        """A call that was taken was never made."""
        self._tokens += 1
        self._fill()

    def charge(self, calls: int) -> None:
        """Use up `calls` more, whether they are there or not; those that come later wait for them."""
        if self._rate is not None:
            self._tokens -= calls

    def _fill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now


class Pause:
    """A time without calls after a 429: what the provider says, or else a time that doubles with each 429 in a row, with jitter."""

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float] = random.random) -> None:
        self._clock, self._jitter = clock, jitter
        self._until = clock()
        self._refused = 0

    def wait_s(self) -> float:
        """Seconds until it is over."""
        left = self._until - self._clock()
        return left if left > INSTANT_S else 0.0

    def refused(self, retry_after_s: float | None) -> float:
        """The provider answered 429: pause, and say for how many seconds."""
        guess = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._refused) * (0.5 + self._jitter() / 2)
        pause = guess if retry_after_s is None else retry_after_s
        self._refused = min(self._refused + 1, 10)
        self._until = max(self._until, self._clock() + pause)
        return pause

    def accepted(self) -> None:
        """The provider took a call: the next 429 is the first one again."""
        self._refused = 0
