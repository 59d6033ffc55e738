"""The named pairs where the protocol in differs from the protocol out. Today one: OpenAI's images to NVIDIA's genai."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from sensorium.errors import Unprocessable
from sensorium.wire import jsonbody
from sensorium.wire.jsonbody import Members
from sensorium.wire.nvidia import RULES, SEED_MAX, SIDES

PICTURES_CAP = 10
_SIZE = re.compile(r"^(\d{1,5})x(\d{1,5})$")


READ = ("prompt", "model", "user", "n", "size", "response_format", "stream", "seed", "steps", "cfg_scale")


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
    shared: Members = {name: found[name] for name in ("prompt", "steps", "cfg_scale") if name in found}
    changes = [f"{name} dropped" for name in found if name not in READ and not (formats and name == "output_format")]
    if formats:
        shared["output_format"] = _raw(_format(jsonbody.text(found, "output_format"), formats))
    sides = _size(jsonbody.text(found, "size") or size)
    if sides is not None:
        near = tuple(_nearest(side) for side in sides) if model in RULES else sides
        changes += [] if near == sides else [f"size {sides[0]}x{sides[1]} -> {near[0]}x{near[1]}"]
        shared |= {"width": _raw(near[0]), "height": _raw(near[1])}
    first, count = _seed(jsonbody.value(found, "seed")) or seed, _count(found)
    return ImagesCall(tuple(shared | {"seed": _raw((first + i) % (SEED_MAX + 1) or 1)} for i in range(count)), tuple(changes))


def genai_error(body: bytes, status: int, request_id: str) -> bytes:
    """A genai error reply in OpenAI's shape, whatever dialect it came in (NVIDIA page, section 5)."""
    try:
        reply = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        reply = body[:500].decode("utf-8", "replace").strip()
    if isinstance(reply, dict) and isinstance(reply.get("error"), dict):
        return msgspec.json.encode({"error": reply["error"] | {"request_id": request_id}})
    said = next((reply[name] for name in ("detail", "title", "message") if reply.get(name)), "") if isinstance(reply, dict) else reply
    if isinstance(said, list):
        said = "; ".join(str(item.get("msg", item)) if isinstance(item, dict) else str(item) for item in said)
    kind = "invalid_request_error" if status < 500 else "upstream_error"
    error = {"message": str(said) or f"the model's provider answered {status}", "type": kind, "code": "upstream_refused", "param": None}
    return msgspec.json.encode({"error": error | {"request_id": request_id, "hint": None}})


def images_reply(pictures: list[str], created: int) -> bytes:
    """OpenAI's images reply from base64 pictures; `created` in seconds since the epoch."""
    return msgspec.json.encode({"created": created, "data": [{"b64_json": picture} for picture in pictures]})


def _count(found: Members) -> int:
    count = jsonbody.value(found, "n")
    count = 1 if count is None else count
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= PICTURES_CAP:
        raise Unprocessable(f"n must be an integer from 1 to {PICTURES_CAP}", param="n")
    return count


def _size(size: str | None) -> tuple[int, int] | None:
    if size in (None, "auto"):
        return None
    match = _SIZE.match(size or "")
    if match is None:
        raise Unprocessable(f"size is {str(size)[:40]!r}; write it as WIDTHxHEIGHT, such as 1024x1024, or auto", param="size")
    return int(match[1]), int(match[2])


def _nearest(side: int) -> int:
    return min(SIDES, key=lambda allowed: abs(allowed - side))


def _seed(given: Any) -> int:
    if given is None:
        return 0
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= SEED_MAX:
        raise Unprocessable(f"seed must be an integer from 0 to {SEED_MAX}", param="seed")
    return given


def _format(given: str | None, formats: tuple[str, ...]) -> str:
    if given is not None and given not in formats:
        raise Unprocessable(f"output_format is {given[:40]!r}; it must be one of {', '.join(formats)}", param="output_format")
    return given or formats[0]


def _raw(got: int | str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(got))
