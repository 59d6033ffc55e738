"""Rate limits (section 3): a token bucket per key over all models, and hidden ones per model. A refusal says neither how long nor why.

Guesses: only calls that ask a model for work count, neither polls nor assets nor lists; and the bucket refills evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sensorium.simulators.nvidia.replies import problem
from sensorium.simulators.replies import Refused

RPM = 40


class Bucket:
    """Holds up to `rpm` tokens and gains `rpm` per minute. `now` is in seconds."""

    def __init__(self, rpm: int, now: float) -> None:
        self._rpm, self._tokens, self._at = rpm, float(rpm), now

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        self._tokens = min(self._rpm, self._tokens + (now - self._at) * self._rpm / 60)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Limits:
    """All buckets. `rpm` 0 means no limit; `caps` are per model, shared by all keys."""

    def __init__(self, rpm: int, caps: Mapping[str, int], now: Callable[[], float]) -> None:
        self._rpm, self._caps, self._now = rpm, caps, now
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def take(self, key: str, model: str) -> None:
        """Count one call of `key` to `model`. Raises Refused with 429."""
        wanted = [(("key", key), self._rpm), (("model", model), self._caps.get(model, 0))]
        for name, rpm in wanted:
            if rpm and not self._buckets.setdefault(name, Bucket(rpm, self._now())).take(self._now()):
                raise Refused(problem(429))
