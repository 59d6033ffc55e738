"""Is the process alive (/healthz), and can it answer (/readyz)?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sensorium import __version__
from sensorium.api.visit import Visit
from sensorium.store.database import SQLITE


class HealthDoor:
    """Open to everyone: it tells states, never names or addresses. `states` maps each local engine to its state, `loaded` to the part of
    its models that it has loaded."""

    def __init__(self, states: Callable[[], Mapping[str, str]], loaded: Callable[[], Mapping[str, float]]) -> None:
        self._states, self._loaded = states, loaded

    async def alive(self, visit: Visit) -> None:
        """200 as long as the process serves; with the version of SQLite, since some could damage a database."""
        await visit.answer(msgspec.json.encode({"status": "ok", "version": __version__, "sqlite": SQLITE}))

    async def ready(self, visit: Visit) -> None:
        """200 when every local engine is ready, else 503 with the state of each and how far its models are."""
        states = dict(self._states())
        ready = all(state == "ready" for state in states.values())
        body: dict[str, Any] = {"status": "ready" if ready else "not ready", "engines": states}
        loading = {name: round(part, 3) for name, part in self._loaded().items() if states.get(name) != "ready"}
        if loading:
            body["loaded"] = loading
        await visit.answer(msgspec.json.encode(body), status=200 if ready else 503)
