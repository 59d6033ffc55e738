"""The operator's doors: what state the hub is in, and taking over a changed settings file now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sensorium.api.auth import require_administrator
from sensorium.api.visit import Visit
from sensorium.errors import SettingsError, Unprocessable


class StatusDoor:
    """Handlers of /v1/status and /v1/settings/reload. `report` makes the one's answer; `reload` the other's, and raises SettingsError."""

    def __init__(self, report: Callable[[], Mapping[str, Any]], reload: Callable[[], Mapping[str, Any]]) -> None:
        self._report = report
        self._reload = reload

    async def status(self, visit: Visit) -> None:
        """GET /v1/status. Reading it changes nothing. Raises Forbidden: it names providers, addresses and folders."""
        require_administrator(visit, "read the hub's status")
        await _answer(visit, self._report())

    async def reload(self, visit: Visit) -> None:
        """POST /v1/settings/reload. Raises Unprocessable with every problem of the file; then the settings are what they were."""
        require_administrator(visit, "change settings")
        try:
            told = self._reload()
        except SettingsError as error:
            hint = "mend the file; until then the settings before it go on"
            raise Unprocessable("; ".join(error.problems), code=SettingsError.code, hint=hint) from None
        await _answer(visit, told)


async def _answer(visit: Visit, told: Mapping[str, Any]) -> None:
    await visit.answer(msgspec.json.encode(told), {"cache-control": "no-store"})
