"""NVIDIA's genai dialect of a drawing engine: a JSON body to a wish, a drawing to an answer.

Stricter than the hosted service in one point only: nothing is ignored without being named. It knows neither transport nor queue.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from sensorium.engines import pictures
from sensorium.engines.flow_image.engine import SEED_MAX, Draw, Drawing
from sensorium.errors import Unprocessable
from sensorium.wire import jsonbody
from sensorium.wire.jsonbody import Members

FIELDS = ("prompt", "seed", "steps", "cfg_scale", "width", "height", "samples", "output_format", "mode", "image")
FORMATS = ("jpeg", "png")
LISTED, LONGEST = 40, 60


@dataclass(frozen=True, slots=True)
class DrawCall:
    """What a body asks for: the wish and the file format of the answer."""

    wish: Draw
    output_format: Literal["png", "jpeg"]


def read(body: bytes) -> DrawCall:
    """Read a genai body. `seed` 0 or none draws one; `cfg_scale` 0 means the model's default.

    Raises BadRequest for what is no JSON object or has no prompt, Unprocessable for an unknown field or a value of the wrong kind.
    """
    found = jsonbody.members(body)
    for name in found:
        if name not in FIELDS:
            raise Unprocessable(f"{name[:80]}: extra inputs are not permitted; this model takes {', '.join(FIELDS)}", param=name[:80])
    prompt = jsonbody.text(found, "prompt")
    if prompt is None:
        raise Unprocessable("prompt: field required; send a string that says what to draw", param="prompt")
    _only(found, "samples", 1)
    _only(found, "mode", "base")
    _only(found, "image", None)
    guidance = jsonbody.value(found, "cfg_scale")
    if guidance is not None and (isinstance(guidance, bool) or not isinstance(guidance, int | float)):
        raise Unprocessable(f"cfg_scale must be a number, not {jsonbody.kind(guidance)}", param="cfg_scale")
    seed = _whole(found, "seed")
    wish = Draw(
        prompt=prompt,
        seed=seed or 1 + secrets.randbelow(SEED_MAX),
        steps=_whole(found, "steps"),
        guidance=guidance or None,
        width=_whole(found, "width"),
        height=_whole(found, "height"),
    )
    return DrawCall(wish, _format(found))


def artifact(call: DrawCall, drawing: Drawing) -> bytes:
    """The body of the answer, with the seed that was really used. Blocking: it encodes the picture."""
    data = base64.b64encode(pictures.encode(drawing.image, call.output_format)).decode("ascii")
    return msgspec.json.encode({"artifacts": [{"base64": data, "finishReason": "SUCCESS", "seed": drawing.seed}]})


def headers(drawing: Drawing) -> dict[str, str]:
    """What else there is to say: the caption that was drawn, and which words of the prompt are not in it."""
    said = {"x-sensorium-caption": drawing.caption}
    return said | ({"x-sensorium-ignored": ignored(drawing.ignored)} if drawing.ignored else {})


def ignored(words: Sequence[str]) -> str:
    """Words as one header line: percent-encoded where they are not plain ASCII, a long list cut with a count of the rest."""
    shown = ", ".join(quote(word[:LONGEST], safe=" '") for word in words[:LISTED])
    return shown + (f" and {len(words) - LISTED} more" if len(words) > LISTED else "")


def _whole(found: Members, name: str) -> int | None:
    """An integer; 4.0 counts as one, as in the hosted service."""
    got: Any = jsonbody.value(found, name)
    if isinstance(got, float) and got.is_integer():
        got = int(got)
    if got is None or (isinstance(got, int) and not isinstance(got, bool)):
        return got
    raise Unprocessable(f"{name} must be an integer, not {_shown(got)}", param=name)


def _only(found: Members, name: str, allowed: int | str | None) -> None:
    got = jsonbody.value(found, name)
    if got is not None and (isinstance(got, bool) or got != allowed):
        said = "leave it out" if allowed is None else f"only {allowed!r} is possible"
        raise Unprocessable(f"{name} is {_shown(got)}; {said}", param=name)


def _format(found: Members) -> Literal["png", "jpeg"]:
    got = jsonbody.value(found, "output_format")
    if got is None or got == "jpeg":
        return "jpeg"
    if got == "png":
        return "png"
    raise Unprocessable(f"output_format is {_shown(got)}; it must be one of {', '.join(FORMATS)}", param="output_format")


def _shown(got: Any) -> str:
    return msgspec.json.encode(got).decode("utf-8", "replace")[:60]
