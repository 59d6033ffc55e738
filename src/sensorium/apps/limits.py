"""What NVIDIA's published rules do not let its pictures be, told before the call as faults of the app's fields, with what is nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sensorium.routing.call import Route
from sensorium.wire.fal_errors import detail
from sensorium.wire.nvidia_models import MODELS, Model
from sensorium.wire.parameters import Integer, Number


def check(model: str, asked: Mapping[str, Any], size: tuple[int, int] | None, routes: Sequence[Route]) -> list[dict[str, Any]]:
    """The faults of a drawing by one of NVIDIA's known models, if any of `routes` is hosted there; `asked` are genai's members."""
    rules = MODELS.get(model)
    hosted = next((route for route in routes if route.dialect == "genai" and not route.provider.local), None)
    if rules is None or hosted is None:
        return []
    found = [_size(rules, size, hosted), _steps(rules, asked.get("steps"), hosted), _guidance(rules, asked.get("cfg_scale"), hosted)]
    return [one for one in found if one is not None]


def _size(rules: Model, size: tuple[int, int] | None, route: Route) -> dict[str, Any] | None:
    if size is None or not rules.choices("width"):
        return None
    nearest = tuple(
        min(rules.choices(side), key=lambda one: abs(one - given)) for side, given in zip(("width", "height"), size, strict=True)
    )
    if nearest == size:
        return None
    said = (
        f"{route.provider.name} draws no picture of {size[0]} x {size[1]} with {route.id}: a side is {rules.fields['width']}; "
        f"nearest valid size: {nearest[0]} x {nearest[1]}"
    )
    return detail("image_size", said, "value_error", input={"width": size[0], "height": size[1]})


def _steps(rules: Model, steps: int | None, route: Route) -> dict[str, Any] | None:
    rule = rules.fields.get("steps")
    if steps is None or not isinstance(rule, Integer) or rule.admits(steps):
        return None
    nearest = min(max(steps, rule.low), rule.high)
    kind, word, name = ("greater_than_equal", "greater", "ge") if steps < rule.low else ("less_than_equal", "less", "le")
    said = f"Input should be {word} than or equal to {nearest} ({route.id} at {route.provider.name}); nearest valid value: {nearest}"
    return detail("num_inference_steps", said, kind, ctx={name: nearest}, input=steps)


def _guidance(rules: Model, guidance: float | None, route: Route) -> dict[str, Any] | None:
    rule = rules.fields.get("cfg_scale")
    if guidance is None or not isinstance(rule, Number) or rule.admits(guidance):
        return None
    return detail("guidance_scale", f"{route.id} at {route.provider.name} takes {rule}", "value_error", input=guidance)
