"""NVIDIA's genai dialect: the rules of its image models, error bodies, and the picture inside a reply.

The table holds what NVIDIA's request schemas of August 2026 allow. Models that are not in it pass through unchecked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from sensorium.errors import SensoriumError, Unprocessable
from sensorium.wire import jsonbody
from sensorium.wire.jsonbody import Members
from sensorium.wire.openai import error_object

SIDES = (768, 832, 896, 960, 1024, 1088, 1152, 1216, 1280, 1344)
SEED_MAX = 4_294_967_295
PROMPT_CAP = 10_000


@dataclass(frozen=True, slots=True)
class Rules:
    """What one hosted image model accepts: inclusive step range, its default, and the guidance scale.

    `cfg` is (exclusive lower, inclusive upper) or None where only 0 is allowed. The first mode is the default and takes no
    picture; the others need one of `samples` pictures that NVIDIA keeps, named by example_id.
    """

    steps: tuple[int, int]
    default_steps: int
    cfg: tuple[float, float] | None
    default_cfg: float
    modes: tuple[str, ...] = ("base",)
    samples: int = 0
    side: int = 1024


RULES = {
    "black-forest-labs/flux.1-schnell": Rules((1, 4), 4, None, 0),
    "black-forest-labs/flux.1-dev": Rules((5, 100), 50, (1, 9), 5, modes=("base", "canny", "depth"), samples=4),
    "black-forest-labs/flux.2-klein-4b": Rules((1, 4), 4, None, 0, modes=("Image Generation", "Image Editing"), samples=4),
}
FIELDS = ("prompt", "seed", "steps", "cfg_scale", "width", "height", "samples", "mode", "image")


def check(model: str, found: Members) -> None:
    """Refuse what the hosted model would refuse, before anything is spent.

    Raises Unprocessable that names the parameter, its value and the range. A model without rules is not checked.
    """
    rules = RULES.get(model)
    if rules is None:
        return
    for name in found:
        if name not in FIELDS:
            raise Unprocessable(f"{name}: extra inputs are not permitted for {model}; it takes {', '.join(FIELDS)}", param=name)
    prompt = jsonbody.text(found, "prompt")
    if not prompt:
        raise Unprocessable("prompt is missing; send a string that says what to draw", param="prompt")
    if len(prompt) > PROMPT_CAP:
        raise Unprocessable(f"prompt has {len(prompt)} characters; {model} takes at most {PROMPT_CAP}", param="prompt")
    _integer(found, "steps", *rules.steps, model)
    _integer(found, "seed", 0, SEED_MAX, model)
    _integer(found, "samples", 1, 1, model)
    for side in ("width", "height"):
        _choice(found, side, SIDES, model)
    _guidance(found, rules, model)
    _image(found, rules, model)


def explicit(model: str, found: Members) -> Members:
    """The call with the hosted model's defaults written out, for a stand-in that has other defaults.

    Raises Unprocessable for the modes that work on a picture: a stand-in draws from the prompt alone.
    """
    rules = RULES.get(model)
    if rules is None:
        return found
    mode = jsonbody.text(found, "mode")
    if mode not in (None, rules.modes[0]):
        raise Unprocessable(f"mode is {mode!r}; the stand-in for {model} draws in mode {rules.modes[0]!r} only", param="mode")
    defaults: dict[str, Any] = {"width": rules.side, "height": rules.side, "steps": rules.default_steps, "cfg_scale": rules.default_cfg}
    kept = {name: raw for name, raw in found.items() if name not in ("mode", "image") and bytes(raw) != b"null"}
    return {name: msgspec.Raw(msgspec.json.encode(default)) for name, default in defaults.items()} | kept


def error(err: SensoriumError, request_id: str) -> bytes:
    """NVIDIA's clients read the top-level `detail`; the `error` member is the same on every route."""
    return msgspec.json.encode({"detail": err.message, "error": error_object(err, request_id)})


def artifact(body: bytes) -> str | None:
    """The base64 picture of a genai reply, wherever the model put it; None when there is none.

    Raises Unprocessable with code content_policy_violation when the picture was filtered, which NVIDIA answers with 200.
    """
    try:
        reply = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if not isinstance(reply, dict):
        return None
    places = [_first(reply.get(name)) for name in ("artifacts", "data", "images")] + [reply]
    if any(place.get(name) == "CONTENT_FILTERED" for place in places for name in ("finishReason", "finish_reason")):
        raise Unprocessable("the model's content filter refused this picture", param="prompt", code="content_policy_violation")
    found = (place.get(name) for place in places for name in ("base64", "b64_json", "image", "data"))
    text = next((text for text in found if isinstance(text, str)), None)
    return text.partition(",")[2] if text and text.startswith("data:") else text


def _first(items: Any) -> dict[str, Any]:
    """The first of a list, of an object keyed "0", or a bare string, as an object."""
    if isinstance(items, dict):
        items = list(items.values())
    first = items[0] if isinstance(items, list) and items else None
    return first if isinstance(first, dict) else {"base64": first}


_STARTS = {b"/9j/": "image/jpeg", b"iVBORw0KGgo": "image/png", b"UklGR": "image/webp"}
_PICTURE = re.compile(rb'"(?:base64|b64_json|image)"\s*:\s*"(?:data:[^,"]*,)?([A-Za-z0-9+/]{12})')


def picture_type(start: bytes) -> str | None:
    """The media type of the picture in a reply of which only the start is at hand, by its magic bytes."""
    match = _PICTURE.search(start)
    head = match.group(1) if match else b""
    return next((media for magic, media in _STARTS.items() if head.startswith(magic)), None)


def _integer(found: Members, name: str, low: int, high: int, model: str) -> None:
    got = jsonbody.value(found, name)
    if got is None:
        return
    span = f"from {low} to {high}" if low < high else f"{low}"
    if isinstance(got, float) and got.is_integer():
        got = int(got)
    if isinstance(got, bool) or not isinstance(got, int):
        raise Unprocessable(f"{name} is {_shown(got)}; {model} takes an integer, {span}", param=name)
    if not low <= got <= high:
        raise Unprocessable(f"{name} is {_shown(got)}; {model} takes {low}..{high}", param=name)


def _choice(found: Members, name: str, allowed: tuple[Any, ...], model: str) -> None:
    got = jsonbody.value(found, name)
    if got is not None and (isinstance(got, bool) or got not in allowed):
        raise Unprocessable(f"{name} is {_shown(got)}; {model} takes one of {', '.join(map(str, allowed))}", param=name)


def _image(found: Members, rules: Rules, model: str) -> None:
    _choice(found, "mode", rules.modes, model)
    mode = jsonbody.value(found, "mode") or rules.modes[0]
    image = jsonbody.value(found, "image")
    wanted = [f"data:image/png;example_id,{number}" for number in range(rules.samples)]
    if mode == rules.modes[0] and image is not None:
        raise Unprocessable(f"image: {model} takes none in mode {mode!r}; leave it out", param="image")
    if mode != rules.modes[0] and image not in wanted:
        raise Unprocessable(f"image: in mode {mode!r} {model} takes NVIDIA's own samples only, {wanted[0]} to {wanted[-1]}", param="image")


def _guidance(found: Members, rules: Rules, model: str) -> None:
    got = jsonbody.value(found, "cfg_scale")
    if got is None:
        return
    number = isinstance(got, int | float) and not isinstance(got, bool)
    if rules.cfg is None:
        if not number or got != 0:
            raise Unprocessable(f"cfg_scale is {_shown(got)}; {model} takes only 0", param="cfg_scale")
    elif not number or not rules.cfg[0] < got <= rules.cfg[1]:
        low, high = rules.cfg
        raise Unprocessable(f"cfg_scale is {_shown(got)}; {model} takes more than {low:g}, up to {high:g}", param="cfg_scale")


def _shown(got: Any) -> str:
    try:
        return json.dumps(got)[:60]
    except ValueError:  # more digits than Python prints
        return "a number of thousands of digits"
