"""The models that ship in the package as routes, and the well-known ids for which they stand in."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from sensorium.routing.call import Provider, Route

Kind = Literal["diffusion_vlm", "flow_image"]

STAND_INS: dict[str, Kind] = {
    "black-forest-labs/flux.1-schnell": "flow_image",
    "black-forest-labs/flux.1-dev": "flow_image",
    "fal-ai/nemotron-diffusion-vlm": "diffusion_vlm",
}


@dataclass(frozen=True, slots=True)
class ShippedModel:
    """A model folder of the package: the id callers use, its kind, and what it knows about."""

    id: str
    kind: Kind
    scope: str


def routes(models: Iterable[ShippedModel], provider: Provider, stand_ins: bool, taken: Collection[str]) -> list[Route]:
    """One route per model, and one per well-known id that it stands in for, unless the operator configured that id (`taken`)."""
    found: list[Route] = []
    for model in models:
        own = _route(model, provider)
        if stand_ins:
            ids = [name for name, kind in STAND_INS.items() if kind == model.kind and name not in taken]
            found += [replace(own, id=name, stand_in=True) for name in ids]
        found.append(own)
    return found


def _route(model: ShippedModel, provider: Provider) -> Route:
    if model.kind == "diffusion_vlm":
        return Route(model.id, "chat", "openai", frozenset({"vision"}), provider, model.id, model.scope)
    return Route(model.id, "image", "genai", frozenset(), provider, model.id, model.scope)
