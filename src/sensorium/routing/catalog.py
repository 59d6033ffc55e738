"""The catalogue: every route that this hub has, in the operator's order, and the open ones that take any name of their modality."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from sensorium.errors import UnknownModel
from sensorium.routing.call import Dialect, Modality, Route

CREATED = 1_790_000_000
# well-known image models that NVIDIA's accounts lack by now, and those that it draws with instead
RETIRED = {"stabilityai/sdxl-turbo", "stabilityai/stable-diffusion-xl"}
SUCCESSORS = ("black-forest-labs/flux.1-schnell", "black-forest-labs/flux.1-dev")


class Catalog:
    """Routes in the order in which `*` prefers them. Several routes may share one id. The ids in `private` stay on this machine."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self.private = frozenset(route.id for route in self.routes if route.private)
        self._by_id: dict[str, list[Route]] = {}
        for route in self.routes:
            if not route.open:
                self._by_id.setdefault(route.id, []).append(route)

    def named(self, model: str, modality: Modality | None = None, dialects: Collection[Dialect] = ()) -> tuple[Route, ...]:
        """The routes of one id, of `modality` where there are such; for a name that nobody has, the open routes of that modality.

        Who speaks Anthropic's protocol takes any name in that one only (`dialects`), and before whoever would need a translation.
        A stand-in counts after the open ones: nobody's real model is replaced by a toy. Raises UnknownModel, naming what comes close.
        """
        listed = self._by_id.get(model, [])
        own = [route for route in listed if not route.stand_in]
        opened = [
            route
            for route in self.routes
            if route.open and route.modality == modality and (route.dialect != "anthropic" or "anthropic" in dialects)
        ]
        opened.sort(key=lambda route: route.dialect != "anthropic")
        found = own or [replace(route, id=model, upstream=model) for route in opened]
        found = found or listed
        if not found:
            raise UnknownModel(f"no model {model!r} is served here{self._instead(model)}", param="model", hint=self._hint(model))
        return tuple([route for route in found if route.modality == modality] or found)

    def serves(self, *modalities: Modality) -> bool:
        """Whether any route is of one of these modalities."""
        return any(route.modality in modalities for route in self.routes)

    def entry(self, model: str) -> dict[str, Any]:
        """One model as GET /v1/models/{id} shows it. Raises UnknownModel."""
        return _entry(self.named(model)[0])

    def entries(self) -> list[dict[str, Any]]:
        """All models as GET /v1/models shows them, one entry per id."""
        return [_entry(routes[0]) for routes in self._by_id.values()]

    def _instead(self, model: str) -> str:
        if model not in RETIRED:
            return ""
        return f"; use {' or '.join([name for name in SUCCESSORS if name in self._by_id] or SUCCESSORS)} instead"

    def _hint(self, model: str) -> str:
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
        **({"licence": route.licence} if route.licence is not None else {}),
    }
