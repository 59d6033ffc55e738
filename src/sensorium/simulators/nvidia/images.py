"""Image containers (section 7): schemas, the refusal of users' own images, and the replies in each model's shape.

Guesses: a needed image that is missing is a `missing` item; how containers take an edit; the picture of finishReason ERROR is empty;
which drift shape comes when.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from sensorium.simulators import drawing, mesh, multipart
from sensorium.simulators.nvidia.ask import Ask, Strict, item, read, refuse, validated
from sensorium.simulators.nvidia.image_schemas import HOSTED, LOCAL, Prompt, Trellis, Wish
from sensorium.simulators.nvidia.replies import detail
from sensorium.simulators.replies import Refused, Reply, json_reply

FILTER_WORD = "nsfw"
SEED_MAX = 4_294_967_295
_SAMPLE = re.compile(r"data:image/[a-z]+;example_id,(\d+)")
SD3 = "stabilityai/stable-diffusion-3-medium"


def answer(ask: Ask) -> Reply:
    """POST /v1/genai/<model> on the gateway, /v1/infer of a container. Raises Refused."""
    schema = (HOSTED if ask.hosted else LOCAL)[ask.model.like or ask.model.name]
    wish = read(schema, ask)
    _check_image(ask, wish)
    seed = wish.seed or ask.draw.randint(1, SEED_MAX)
    finish, data = _made(ask, wish, seed)
    encoded = base64.b64encode(data).decode()
    if ask.model.name == SD3:
        return json_reply({"image": encoded, "finish_reason": finish, "seed": wish.seed})
    if ask.twist == "drift":
        return json_reply(_drifted(ask, encoded))
    artifact = {"base64": encoded, "finishReason": finish, "seed": seed}
    return json_reply({"artifacts": [] if ask.twist == "empty-artifacts" else [artifact]})


class OpenAIImage(Strict):
    """The body of a container's OpenAI route (7.6), as far as it is known."""

    prompt: Prompt
    model: str = ""
    n: int = 1
    size: str = "1024x1024"
    seed: int = 0
    response_format: str = "b64_json"


def openai(ask: Ask) -> Reply:
    """POST /v1/images/generations of a container. Raises Refused."""
    return _pictures(ask, read(OpenAIImage, ask))


def edit(ask: Ask) -> Reply:
    """POST /v1/images/edits of a container: a form with the picture. Raises Refused."""
    try:
        fields = multipart.parse(ask.content_type, ask.body)
    except multipart.BadForm as error:
        raise Refused(detail(400, f"There was an error parsing the body: {error}")) from None
    given = [field for field in fields if field.name in ("image", "image[]") and field.filename is not None]
    if not given:
        refuse([item("missing", ("image",), "Field required", None)])
    plain = {field.name: field.text for field in fields if field.filename is None}
    wish = validated(OpenAIImage, plain)
    seen = hashlib.sha256(b"".join(field.data for field in fields if field.filename is not None)).hexdigest()
    return _pictures(ask, wish.model_copy(update={"prompt": f"{wish.prompt}\0{seen}"}))


def _pictures(ask: Ask, wish: OpenAIImage) -> Reply:
    across, _, down = wish.size.partition("x")
    if not (across.isdecimal() and down.isdecimal() and 0 < int(across) <= 2048 and 0 < int(down) <= 2048):
        refuse([item("value_error", ("size",), "Value error, size must be WIDTHxHEIGHT", wish.size)])
    pictures = [drawing.jpeg(drawing.picture(int(across), int(down), wish.prompt, wish.seed + i)) for i in range(max(1, min(wish.n, 10)))]
    return json_reply({"created": int(ask.now), "data": [{"b64_json": base64.b64encode(data).decode()} for data in pictures]})


def _made(ask: Ask, wish: Wish, seed: int) -> tuple[str, bytes]:
    """How it finished, and the file: a JPEG, or a mesh from trellis."""
    if ask.twist == "finish-error":
        return "ERROR", b""
    if ask.twist == "filtered" or FILTER_WORD in wish.words().lower():
        return "CONTENT_FILTERED", drawing.jpeg(drawing.black(*wish.size()), small=True)
    if isinstance(wish, Trellis):
        size = 1 + seed / SEED_MAX
        return "SUCCESS", mesh.stl(size) if wish.output_format == "stl" else mesh.glb(size)
    image, _, _ = wish.given()
    return "SUCCESS", drawing.jpeg(drawing.picture(*wish.size(), f"{ask.model.name}\0{wish.words()}\0{image or ''}", seed))


def _check_image(ask: Ask, wish: Wish) -> None:
    """Hosted previews take NVIDIA's sample images only (7.4); local containers take any."""
    image, samples, needed = wish.given()
    if image is None:
        if needed:
            refuse([item("missing", ("image",), "Field required", json.loads(ask.body))])
        return
    if not ask.hosted:
        return
    found = _SAMPLE.fullmatch(image)
    if found and int(found[1]) < samples:
        return
    kind = next((kind for kind in ("base64", "asset_id") if f";{kind}," in image[:100]), None)
    if found:
        raise Refused(detail(422, f"Not valid example_id, expected value {', '.join(map(str, range(samples)))}"))
    raise Refused(detail(422, f"Expected: example_id, got: {kind}" if kind else "Image has been provided in the invalid form"))


def _drifted(ask: Ask, encoded: str) -> dict[str, Any]:
    return ask.draw.choice(
        [
            {"artifacts": [encoded]},
            {"data": [{"base64": encoded}]},
            {"artifacts": [{"url": f"data:application/octet-stream;base64,{encoded}"}]},
            {"artifacts": {"0": {"base64": encoded}}},
        ]
    )
