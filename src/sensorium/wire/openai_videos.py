"""OpenAI's videos: a call to create one as the body of NVIDIA's video models, and the object that tells how far one is.

How NVIDIA's hosted video models name sides and length is a guess (NVIDIA page, section 9), kept in one place, `_FAMILIES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from sensorium.errors import Unprocessable
from sensorium.wire import dataurl, jsonbody, picture
from sensorium.wire.jsonbody import Members
from sensorium.wire.multipart import Part

SECONDS: Final = range(1, 61)
RATE: Final = 24  # frames a second
PREFIX: Final = "video_"
_SIZE = re.compile(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})")
_OURS = ("prompt", "model", "seconds", "size", "input_reference")
_NAMED_SIDES = {(w, h): f"720_{w}_{h}" for w, h in ((16, 9), (1, 1), (9, 16), (4, 3), (3, 4))}


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a video: times in seconds since the epoch, `seconds` and `size` as they were asked for."""

    id: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    model: str
    created_at: float
    finished_at: int | None
    seconds: str | None
    size: str | None
    error: dict[str, Any] | None


def members_of(form: Sequence[Part]) -> Members:
    """The form of a call as members. The file becomes a data: URL; `a[b]` is the member b of the object a, as OpenAI's clients write it.

    OpenAI's own fields are strings. Others are what they read as, in JSON: `7` is a number.
    """
    found: dict[str, Any] = {}
    for part in form:
        name, *inner = part.name.replace("]", "").split("[")
        if part.filename is not None:
            data = bytes(part.data)
            value: Any = dataurl.build(picture.media_type(data) or part.media or "application/octet-stream", data)
        else:
            value = part.text() if name in _OURS else _read(part.text())
        place, keys = found, [name, *inner]
        for key in keys[:-1]:
            below = place.setdefault(key, {})
            if not isinstance(below, dict):
                raise Unprocessable(f"{part.name}: {key} is given twice, as a value and as an object", param=key)
            place = below
        place[keys[-1]] = value
    return {name: _raw(value) for name, value in found.items()}


def _read(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def to_genai(found: Members, model: str) -> tuple[Members, tuple[str, ...]]:
    """The body for `model`, and what of the call could not be kept as it was. Members that OpenAI does not have go on as they came.

    Raises Unprocessable for a missing prompt and for values that no video has.
    """
    prompt = jsonbody.text(found, "prompt")
    if not prompt:
        raise Unprocessable("prompt is missing; send a string that says what to film", param="prompt")
    rest = {name: raw for name, raw in found.items() if name not in _OURS}
    image = _reference(found)
    made: Members = {"prompt": found["prompt"], **rest, **({"image": image} if image is not None else {})}
    family = next((family for part, family in _FAMILIES if part in model), _as_it_came)
    return family(made, seconds(found), _size(found), found)


def video(told: Told) -> dict[str, Any]:
    """The video object."""
    finished = {"completed_at": told.finished_at} if told.status == "completed" else {}
    return {
        "id": f"{PREFIX}{told.id}",
        "object": "video",
        "status": told.status,
        "model": told.model,
        "progress": 100 if told.status == "completed" else 0,  # nobody tells how far it is
        "created_at": int(told.created_at),
        **finished,
        "seconds": told.seconds,
        "size": told.size,
        "error": told.error,
    }


def seconds(found: Members) -> int | None:
    """The length asked for. Raises Unprocessable."""
    given = jsonbody.value(found, "seconds")
    if given is None:
        return None
    whole = int(given) if isinstance(given, str) and given.isdecimal() else given
    if isinstance(whole, bool) or not isinstance(whole, int) or whole not in SECONDS:
        raise Unprocessable(f"seconds is {str(given)[:40]!r}; send a whole number, {SECONDS[0]}..{SECONDS[-1]}", param="seconds")
    return whole


def _size(found: Members) -> tuple[int, int] | None:
    given = jsonbody.text(found, "size")
    if given is None:
        return None
    match = _SIZE.fullmatch(given)
    if match is None:
        raise Unprocessable(f"size is {given[:40]!r}; write it as WIDTHxHEIGHT, such as 1280x720", param="size")
    return int(match[1]), int(match[2])


def _reference(found: Members) -> msgspec.Raw | None:
    """The picture to begin with: a data: URL, as a string or in {"image_url": ...}."""
    given = jsonbody.value(found, "input_reference")
    if isinstance(given, dict):
        given = given.get("image_url")
    if given is None:
        return None
    if not isinstance(given, str) or not dataurl.is_data_url(given):
        raise Unprocessable("input_reference: send a picture as a file or a data: URL", param="input_reference")
    picture.unpack(given)
    return _raw(given)


def _as_it_came(made: Members, length: int | None, sides: tuple[int, int] | None, found: Members) -> tuple[Members, tuple[str, ...]]:
    return made | {name: found[name] for name in ("seconds", "size") if name in found}, ()


def _cosmos(made: Members, length: int | None, sides: tuple[int, int] | None, found: Members) -> tuple[Members, tuple[str, ...]]:
    params = {"width": sides[0], "height": sides[1]} if sides else {}
    params |= {"frames_count": length * RATE + 1, "frames_per_sec": RATE} if length else {}
    return made | ({"video_params": _raw(params)} if params else {}), ()


def _cosmos3(made: Members, length: int | None, sides: tuple[int, int] | None, found: Members) -> tuple[Members, tuple[str, ...]]:
    more: dict[str, Any] = {"num_output_frames": length * RATE + 1, "fps": RATE} if length else {}
    changes: tuple[str, ...] = ()
    if sides:
        near = min(_NAMED_SIDES, key=lambda ratio: abs(ratio[0] / ratio[1] - sides[0] / sides[1]))
        more["resolution"] = _NAMED_SIDES[near]
        changes = (f"size {sides[0]}x{sides[1]} -> resolution {more['resolution']}",)
    return made | {name: _raw(value) for name, value in more.items()}, changes


def _still(made: Members, length: int | None, sides: tuple[int, int] | None, found: Members) -> tuple[Members, tuple[str, ...]]:
    """Stable Video Diffusion films a picture and takes neither words, nor a length, nor a size."""
    dropped = [name for name in ("prompt", "seconds", "size") if name in found]
    return {name: raw for name, raw in made.items() if name != "prompt"}, (f"{', '.join(dropped)} dropped",)


Family = Callable[[Members, int | None, tuple[int, int] | None, Members], tuple[Members, tuple[str, ...]]]
_FAMILIES: Final[tuple[tuple[str, Family], ...]] = (("cosmos3", _cosmos3), ("cosmos", _cosmos), ("stable-video-diffusion", _still))


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
