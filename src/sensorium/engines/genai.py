"""NVIDIA's genai dialect of a drawing engine: a JSON body to a wish, a drawing to an answer, and, for whoever asks for events, every step.

Stricter than the hosted service in one point only: nothing is ignored without being named. It knows neither transport nor queue.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from sensorium.engines import pictures
from sensorium.engines.drawing import SEED, Checked, Draw, Drawer, Drawing, Step
from sensorium.engines.lane import Cancelling
from sensorium.wire import jsonbody, parameters, sse
from sensorium.wire.parameters import OneOf, Rule

FORMATS: tuple[Literal["jpeg"], Literal["png"]] = ("jpeg", "png")
RULES: dict[str, Rule] = {
    "seed": SEED,
    "samples": OneOf((1,)),
    "mode": OneOf(("base",)),
    "image": OneOf(()),
    "output_format": OneOf(FORMATS),
}
FIELDS = ("prompt", "steps", "cfg_scale", "width", "height", *RULES)
TAKER = "this model"
STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True)
class DrawCall:
    """What a body asks for: the wish and the file format of the answer."""

    wish: Draw
    output_format: Literal["png", "jpeg"]


def read(body: bytes) -> DrawCall:
    """Read a genai body. `seed` 0 or none draws one; null counts as not given.

    Raises BadRequest for what is no JSON object, Unprocessable for an unknown field and for what no drawing model here takes. The
    model's own limits are the model's affair.
    """
    found = jsonbody.members(body)
    parameters.refuse_unknown(found, FIELDS, TAKER)
    given = {name: jsonbody.value(found, name) for name in FIELDS}
    for name, rule in RULES.items():
        parameters.optional(name, given[name], rule, TAKER)
    wish = Draw(
        prompt=given["prompt"],
        seed=int(given["seed"] or 1 + secrets.randbelow(SEED.high)),
        steps=given["steps"],
        guidance=given["cfg_scale"],
        width=given["width"],
        height=given["height"],
    )
    return DrawCall(wish, given["output_format"] or FORMATS[0])


def artifact(call: DrawCall, drawing: Drawing) -> bytes:
    """The body of the answer, with the seed that was really used. Blocking: it encodes the picture."""
    data = base64.b64encode(pictures.encode(drawing.image, call.output_format)).decode("ascii")
    return msgspec.json.encode({"artifacts": [{"base64": data, "finishReason": "SUCCESS", "seed": drawing.seed}]})


def headers(checked: Checked) -> dict[str, str]:
    """What else there is to say: the caption that is drawn, and which words of the prompt are not in it."""
    said = {"x-sensorium-caption": checked.caption} if checked.caption else {}
    return said | ({"x-sensorium-ignored": parameters.listed(checked.ignored)} if checked.ignored else {})


def wants_steps(accept: str) -> bool:
    """Whether an Accept header asks for events."""
    return accept.split(";")[0].strip().lower() == STREAM


def step(done: Step) -> bytes:
    """A step as an event of a stream."""
    return sse.event(msgspec.json.encode({"step": done.number, "steps": done.of}))


def events(call: DrawCall, model: Drawer, cancelled: Cancelling) -> Iterator[Step | bytes]:
    """A drawing's steps, then the body of the answer. Blocking; raises as `Drawer.steps` does."""
    for event in model.steps(call.wish, cancelled):
        yield event if isinstance(event, Step) else artifact(call, event)
