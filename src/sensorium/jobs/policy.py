"""What the operator set for the queue, and what it works with outside itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sensorium.errors import Cause, SensoriumError
from sensorium.jobs.request import Request


def unheard(request: Request) -> None:
    """Nobody needs to know that a request has ended."""


def unkept(keys: Sequence[str]) -> None:
    """There are no files to take back."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator set: how many may wait (in all, and of some callers), how long payloads, logs and unserved requests are kept, in
    seconds, and after how many a low priority counts as normal (None: never)."""

    most_waiting: int = 100_000
    most_waiting_of: Mapping[str, int] = field(default_factory=dict)
    kept_s: float = 30 * 86_400.0
    log_s: float = 7 * 86_400.0
    unserved_s: float = 3600.0
    low_max_wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """What a runner works with outside the queue: `verdict` tells how a run failed, `ended` hears of every request with a webhook that is
    over, `discard` takes back files of runs that do not count, `sleep` waits, in seconds, while the disk cannot be used."""

    verdict: Callable[[SensoriumError], Cause]
    ended: Callable[[Request], None] = unheard
    discard: Callable[[Sequence[str]], None] = unkept
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
