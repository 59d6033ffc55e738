"""OpenAI's images call as NVIDIA's genai bodies, and the reply of OpenAI's shape. `edits` has the calls with a picture."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sensorium.errors import Unprocessable
from sensorium.wire import jsonbody, parameters
from sensorium.wire.jsonbody import Members
from sensorium.wire.nvidia_models import MODELS, SEED
from sensorium.wire.parameters import Integer, OneOf, Rule

COUNT = Integer(1, 10)
ROUTE = "this route"
READ = ("prompt", "model", "user", "n", "size", "response_format", "stream", "seed", "steps", "cfg_scale")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True)
class ImagesCall:
    """One OpenAI images call as genai bodies: as many as pictures were asked for, and what could not be kept as it was."""

    bodies: tuple[Members, ...]
    changes: tuple[str, ...]


def images_to_genai(found: Members, model: str, seed: int, *, size: str | None = None, formats: tuple[str, ...] = ()) -> ImagesCall:
    """Translate `prompt`, `n`, `size` and the extensions `seed`, `steps`, `cfg_scale` (NVIDIA page, section 7.7).

    `seed` and `size` are used when the call has none; picture i is drawn with seed + i. `formats` are the picture formats
    that the model can be asked for, the default first. A size that the hosted model does not have becomes the nearest it has;
    that, and every member that has no meaning here, is told in `changes`. Raises Unprocessable for what no model here can do.
    """
    prompt = jsonbody.text(found, "prompt")
    if not prompt:
        raise Unprocessable("prompt is missing; send a string that says what to draw", param="prompt")
    if (jsonbody.text(found, "response_format") or "b64_json") != "b64_json":
        raise Unprocessable("response_format: pictures are answered as b64_json only", param="response_format")
    if jsonbody.flag(found, "stream"):
        raise Unprocessable("stream: pictures are not streamed; leave it out", param="stream")
    shared = _prompted(found["prompt"], model) | {name: found[name] for name in ("steps", "cfg_scale") if name in found}
    dropped = [name for name in found if name not in READ and not (formats and name == "output_format")]
    if formats:
        shared["output_format"] = _raw(_given(found, "output_format", OneOf(formats)) or formats[0])
    sized, changed = _sized(_size(jsonbody.text(found, "size") or size), model)
    first = int(_given(found, "seed", SEED) or seed)
    bodies = tuple(shared | sized | {"seed": _raw((first + i) % (SEED.high + 1) or 1)} for i in range(count(found)))
    return ImagesCall(bodies, (*((f"{parameters.listed(dropped)} dropped",) if dropped else ()), *changed))


def count(found: Members) -> int:
    """How many pictures are asked for. Raises Unprocessable."""
    return int(_given(found, "n", COUNT) or 1)


def images_reply(pictures: list[str], created: int) -> bytes:
    """OpenAI's images reply from base64 pictures; `created` in seconds since the epoch."""
    return msgspec.json.encode({"created": created, "data": [{"b64_json": picture} for picture in pictures]})


def _given(found: Members, name: str, rule: Rule) -> Any:
    return parameters.optional(name, jsonbody.value(found, name), rule, ROUTE)


def _prompted(prompt: msgspec.Raw, model: str) -> Members:
    if model in MODELS and "text_prompts" in MODELS[model].fields:
        return {"text_prompts": _raw([{"text": prompt, "weight": 1}])}
    return {"prompt": prompt}


def _size(size: str | None) -> tuple[int, int] | None:
    if size in (None, "auto"):
        return None
    match = _SIZE.fullmatch(size or "")
    if match is None:
        raise Unprocessable(f"size is {str(size)[:40]!r}; write it as WIDTHxHEIGHT, such as 1024x1024, or auto", param="size")
    return int(match[1]), int(match[2])


def _sized(sides: tuple[int, int] | None, model: str) -> tuple[Members, tuple[str, ...]]:
    """The members that ask for a size, and what became of it where the model does not have it."""
    if sides is None:
        return {}, ()
    rules, asked = MODELS.get(model), f"size {sides[0]}x{sides[1]}"
    if rules is None:
        return {"width": _raw(sides[0]), "height": _raw(sides[1])}, ()
    if widths := rules.choices("width"):
        width, height = _nearest(sides[0], widths), _nearest(sides[1], rules.choices("height"))
        changed = () if (width, height) == sides else (f"{asked} -> {width}x{height}",)
        return {"width": _raw(width), "height": _raw(height)}, changed
    if ratios := rules.choices("aspect_ratio"):
        ratio = min(ratios, key=lambda one: _apart(one, sides))
        return {"aspect_ratio": _raw(ratio)}, (f"{asked} -> aspect_ratio {ratio}",)
    return {}, (f"{asked} dropped",)


def _nearest(side: int, allowed: Sequence[int]) -> int:
    return min(allowed, key=lambda one: abs(one - side))


def _apart(ratio: str, sides: tuple[int, int]) -> float:
    """How far a ratio such as 16:9 is from a size."""
    across, down = map(int, ratio.split(":"))
    return abs(math.log(across * sides[1] / (down * sides[0])))


def _raw(got: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(got))
