"""OpenAI's picture edits: what a form or a JSON body asks for, and the genai bodies of the models that can (NVIDIA page, 7.2 and 7.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from sensorium.errors import BadRequest, InvalidImage, Unprocessable
from sensorium.wire import dataurl, jsonbody, multipart, picture, translate
from sensorium.wire.jsonbody import Members
from sensorium.wire.multipart import Part
from sensorium.wire.nvidia_models import MODELS
from sensorium.wire.translate import ImagesCall

IN_FORM: Final = ("image", "image[]")
IN_JSON: Final = ("image", "images")
NUMBERS: Final = ("n", "seed", "steps", "cfg_scale", "stream")  # form fields whose text is a number or a boolean
# the known models that edit, and what else each must be told for it
EDITORS: Final[dict[str, dict[str, str]]] = {
    "black-forest-labs/flux.1-kontext-dev": {},
    "black-forest-labs/flux.2-klein-4b": {"mode": "Image Editing"},
}
MISSING: Final = "image is missing; send the picture to edit"


def check_form(form: Sequence[Part]) -> None:
    """Refuse a form that no model could serve. Raises BadRequest without a picture, Unprocessable without a prompt."""
    if not any(part.name in IN_FORM and len(part.data) for part in form):
        raise BadRequest(f"{MISSING} as the form field `image`", param="image")
    _require_prompt(multipart.field(form, "prompt"))


def check_members(found: Members) -> None:
    """The same, for a JSON body."""
    if not any(jsonbody.value(found, name) for name in IN_JSON):
        raise BadRequest(f"{MISSING} as `image`, a data: URL", param="image")
    _require_prompt(jsonbody.text(found, "prompt"))


def members(form: Sequence[Part]) -> Members:
    """The form as the members of a JSON body, its pictures as data: URLs. Raises BadRequest, InvalidImage."""
    found: dict[str, Any] = {}
    for part in form:
        if part.name in IN_FORM:
            found.setdefault("image", []).append(_url(part))
        elif part.filename is not None:
            found[part.name] = part.filename  # a mask, which is refused by its name
        else:
            found[part.name] = _number(part.text()) if part.name in NUMBERS else part.text()
    return {name: msgspec.Raw(msgspec.json.encode(got)) for name, got in found.items()}


def to_genai(found: Members, model: str, seed: int) -> ImagesCall:
    """Translate an edit of one picture; `seed` counts where the call has none.

    Raises Unprocessable for a model that is known not to edit, for a mask and for several pictures: no genai model takes them.
    """
    if model in MODELS and model not in EDITORS:
        raise Unprocessable(f"{model} cannot edit pictures; {' and '.join(EDITORS)} can", param="model")
    if jsonbody.value(found, "mask") is not None:
        raise Unprocessable(f"mask: {model} takes none; leave it out, and say in the prompt what to change", param="mask")
    urls = _urls(found)
    if len(urls) != 1:
        raise Unprocessable(f"image: {model} edits one picture per call, not {len(urls)}", param="image")
    rest = {name: raw for name, raw in found.items() if name not in (*IN_JSON, "mask")}
    asked = translate.images_to_genai(rest, model, seed)
    more = {name: msgspec.Raw(msgspec.json.encode(got)) for name, got in {"image": urls[0], **EDITORS.get(model, {})}.items()}
    return replace(asked, bodies=tuple(body | more for body in asked.bodies))


def _require_prompt(prompt: str | None) -> None:
    if not prompt:
        raise Unprocessable("prompt is missing; send a string that says what to change", param="prompt")


def _urls(found: Members) -> list[str]:
    """The pictures of a JSON body: `image` is a URL or several, `images` OpenAI's list of objects with an `image_url`."""
    given = [one for name in IN_JSON for one in _listed(jsonbody.value(found, name))]
    urls = [one.get("image_url") if isinstance(one, dict) else one for one in given]
    if not all(isinstance(url, str) and dataurl.is_data_url(url) for url in urls):
        raise Unprocessable("image must be a data: URL; links and file ids are not followed for this model", param="image")
    return [url for url in urls if isinstance(url, str)]


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [] if given is None else [given]


def _url(part: Part) -> str:
    """A picture of a form as a data: URL. One may stand there as text: that is how NVIDIA's samples are named."""
    start = bytes(part.data[:16])
    if start[:5] == b"data:":
        return part.text()
    media = picture.media_type(start)
    if media is None:
        raise InvalidImage("image is not a picture: send a PNG, JPEG or WEBP file", param="image")
    return dataurl.build(media, bytes(part.data))


def _number(text: str) -> Any:
    try:
        got = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text
    return got if isinstance(got, int | float) else text
