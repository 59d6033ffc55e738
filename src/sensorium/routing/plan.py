"""Who may answer a call, in order. Pure: call and catalogue in, routes out."""

from __future__ import annotations

from collections.abc import Sequence

from sensorium.errors import Forbidden, InvalidModel, NotConfigured
from sensorium.routing.call import ANY_MODEL, Call, Modality, Route
from sensorium.routing.catalog import Catalog

DOORS: dict[Modality, str] = {
    "chat": "POST /v1/chat/completions",
    "embed": "POST /v1/embeddings",
    "image": "POST /v1/images/generations, /v1/images/edits or /v1/genai/<model>",
    "speech": "POST /v1/audio/synthesize or /v1/audio/speech",
    "transcribe": "POST /v1/audio/transcriptions",
    "video": "POST /v1/video/<model>",
    "rerank": "POST /v1/rerank",
}
NAMELESS = ("speech", "transcribe")  # in NVIDIA's dialect these calls name no model, so that `*` may go to an open route


def plan(call: Call, catalog: Catalog) -> tuple[Route, ...]:
    """The routes for `call`, best first, never empty.

    `*` takes every route of the call's modality that can do what the call contains, but no stand-in: nobody asked for the
    well-known id; and an open route only where no model is named to it. A concrete name takes only its own routes.
    A private model's hosted routes are left out. `call.where` then puts local or hosted routes first, or leaves the others out.
    Raises Forbidden, naming the policy, when that leaves none, NotConfigured when nobody serves the modality, UnknownModel for a name
    that is not served, InvalidModel when the model belongs to another door or cannot do what the call contains.
    """
    named = _any(call, catalog) if call.model == ANY_MODEL else catalog.named(call.model, call.modality, call.dialects)
    able = _able(call, [route for route in named if _serves(call, route)], _door(call, named))
    return _placed(call, _open_to(call, able, catalog))


def _any(call: Call, catalog: Catalog) -> Sequence[Route]:
    mine = [route for route in catalog.routes if route.modality == call.modality and not route.stand_in]
    if not mine:
        raise NotConfigured(
            f"no {call.modality} model is configured on this hub",
            hint=f"add a provider with a model of modality {call.modality} to the settings",
        )
    named = [route for route in mine if not route.open or (route.dialect == "nvidia" and route.modality in NAMELESS)]
    if not named:
        raise InvalidModel(
            f"name a model: this hub's {call.modality} provider takes any, and none was set for *",
            param="model",
            hint="the operator sets what * means by listing `models` in the provider's table of the settings",
        )
    return named


def _open_to(call: Call, routes: tuple[Route, ...], catalog: Catalog) -> tuple[Route, ...]:
    kept = tuple(route for route in routes if route.provider.local or route.id not in catalog.private)
    if not kept:
        message = f"{call.model} is private on this hub: it is never sent to a hosted provider, and no engine here has it"
        raise Forbidden(message, code="private_model")
    return kept


def _placed(call: Call, routes: tuple[Route, ...]) -> tuple[Route, ...]:
    if call.where in ("local_first", "hosted_first"):
        return tuple(sorted(routes, key=lambda route: route.provider.local != (call.where == "local_first")))
    if call.where in ("local_only", "hosted_only"):
        kept = tuple(route for route in routes if route.provider.local == (call.where == "local_only"))
        if not kept:
            place = "this machine" if call.where == "local_only" else "hosted providers"
            raise Forbidden(f"the call is for {place} only ({call.where}), and no route for {call.model} is there", code="placement")
        return kept
    return routes


def _serves(call: Call, route: Route) -> bool:
    if route.modality != call.modality:
        raise InvalidModel(f"{route.id} is not a {call.modality} model; call it through {DOORS[route.modality]}", param="model")
    return route.dialect in call.dialects


def _door(call: Call, routes: Sequence[Route]) -> str:
    """Where a call to these routes can come in."""
    return "POST /v1/messages" if all(route.dialect == "anthropic" for route in routes) else DOORS[call.modality]


def _able(call: Call, routes: list[Route], door: str) -> tuple[Route, ...]:
    if not routes:
        raise InvalidModel(f"{call.model} cannot be called in this dialect; use {door}", param="model")
    able = tuple(route for route in routes if call.needs <= route.capabilities)
    if not able:
        missing = " and ".join(sorted(call.needs))
        have = "; ".join(f"{route.id}: {', '.join(sorted(route.capabilities))}" for route in routes[:4])
        hint = "send a picture with the question" if call.needs == {"text"} else "name a model that can, or configure one"
        if "edit" in call.needs:
            hint = "name a model that edits pictures, or mark one with edit = true in the settings"
            known = ", ".join(route.id for route in routes[:4])
            raise InvalidModel(f"no model here is known to edit pictures; there is only {known}", param="model", hint=hint)
        raise InvalidModel(f"no model for this call: it needs {missing} input, and there is only {have}", param="model", hint=hint)
    return able
