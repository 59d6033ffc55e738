"""The catalogue: every route that this hub has, in the operator's order."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from sensorium.errors import UnknownModel
from sensorium.routing.call import Route

CREATED = 1_790_000_000
RETIRED = {"stabilityai/sdxl-turbo", "stabilityai/stable-diffusion-xl"}


class Catalog:
    """Routes in the order in which `*` prefers them. Several routes may share one id."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._by_id: dict[str, list[Route]] = {}
        for route in self.routes:
            self._by_id.setdefault(route.id, []).append(route)

    def named(self, model: str) -> tuple[Route, ...]:
        """The routes of one id. Raises UnknownModel, naming what comes close."""
        found = self._by_id.get(model)
        if found is None:
            raise UnknownModel(f"no model {model!r} is served here", param="model", hint=self._hint(model))
        return tuple(found)

    def entry(self, model: str) -> dict[str, Any]:
        """One model as GET /v1/models/{id} shows it. Raises UnknownModel."""
        return _entry(self.named(model)[0])

    def entries(self) -> list[dict[str, Any]]:
        """All models as GET /v1/models shows them, one entry per id."""
        return [_entry(routes[0]) for routes in self._by_id.values()]

    def _hint(self, model: str) -> str:
        if model in RETIRED:
            pictures = [name for name in self._by_id if name.startswith("black-forest-labs/")]
            return f"this model is not served; use {' or '.join(pictures) or 'a FLUX model'} instead"
        near = difflib.get_close_matches(model, self._by_id, n=3, cutoff=0.4)
        return f"did you mean {' or '.join(near)}?" if near else f"served here: {', '.join(self._by_id) or 'nothing yet'}"


def _entry(route: Route) -> dict[str, Any]:
    return {
        "id": route.id,
        "object": "model",
        "created": CREATED,
        "owned_by": route.id.split("/")[0],
        "modality": route.modality,
        "capabilities": sorted(route.capabilities),
        "scope": route.scope,
        "provider": route.provider.name,
        "local": route.provider.local,
        "stand_in": route.stand_in,
        "answered_by": route.answers,
        "callable": route.provider.down() is None,
    }
