"""The door of a monitoring system: counters and states as Prometheus text, for administrators unless the settings open it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sensorium.api.auth import require_administrator
from sensorium.api.visit import Visit

TEXT = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format


class MetricsDoor:
    """Handler of /metrics. `text` makes the page; a `public` one is for everybody who reaches the hub."""

    def __init__(self, text: Callable[[], Awaitable[bytes]], public: bool) -> None:
        self._text, self._public = text, public

    async def scrape(self, visit: Visit) -> None:
        """GET /metrics. Reading it changes nothing."""
        if not self._public:
            require_administrator(visit, "read the metrics")
        await visit.answer(await self._text(), {"content-type": TEXT, "cache-control": "no-store"})
