"""Models of one device that do not fit into its memory together: each is loaded when it is called for, and gives way to another one.

`residency` decides who goes; here is what going and coming means for a hosted model and its lane.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sensorium.engines import torch_models
from sensorium.engines.hosted import Hosted
from sensorium.engines.residency import Entry, Residency
from sensorium.engines.shared_lane import SharedLane
from sensorium.errors import SettingsError, Unavailable

TRY_AGAIN_S = 30.0
Settle = Callable[[Hosted, torch_models.Loaded], None]
Advance = Callable[[Hosted], torch_models.Progress]


class Turns:
    """`hosted` of one device, which may take `budget` bytes there together. `settle` hears of each model that was loaded, and
    what `advance` gives of how far its first loading is."""

    def __init__(self, hosted: Sequence[Hosted], budget: int, settle: Settle, advance: Advance) -> None:
        """Raises SettingsError for a model that never fits."""
        self._settle, self._advance, self._budget = settle, advance, budget
        self._hosted = {one.name: one for one in hosted}
        self._residency = Residency(budget, [self._entry(one) for one in hosted], time.monotonic)
        for one in hosted:
            one.residence = partial(self._residency.held, one.name)

    async def take_in(self, told: Callable[[], None]) -> None:
        """Load what fits beside each other, pinned models first; `told` hears of each step. On the event loop that serves calls."""
        for entry in sorted(self._residency.entries, key=lambda entry: not entry.pinned):
            one = self._hosted[entry.name]
            if self._residency.used_bytes + entry.bytes <= self._budget:
                one.state = "loading"
                told()
                async with self._residency.held(entry.name):
                    pass
            one.state = "ready"
            told()

    def _entry(self, one: Hosted) -> Entry:
        one.place, size = torch_models.expected(one.order, one.kind, self._budget)
        return Entry(one.name, size, partial(self._load, one), partial(self._unload, one), pinned=one.order.pinned)

    async def _load(self, one: Hosted) -> tuple[Any, int]:
        first = one.state == "loading"
        try:
            loaded = await asyncio.to_thread(torch_models.load, one.order, one.kind, self._budget, self._advance(one) if first else None)
        except SettingsError as error:
            if first:
                raise
            raise Unavailable("; ".join(error.problems), retry_after=TRY_AGAIN_S) from None
        self._settle(one, loaded)
        return loaded.model, loaded.bytes

    async def _unload(self, one: Hosted, model: Any) -> None:
        one.model = None
        try:
            await one.lane.alone(partial(torch_models.unload, model))
        finally:
            if isinstance(one.lane, SharedLane):
                one.lane.batch = None  # it holds pictures on the device
