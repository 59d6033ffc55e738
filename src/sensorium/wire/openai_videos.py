"""OpenAI's videos: a call to create one in the words of `films`, which each model gets in its own; the object that tells how far one is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from sensorium.errors import Unprocessable
from sensorium.wire import dataurl, jsonbody, picture
from sensorium.wire.jsonbody import Members
from sensorium.wire.multipart import Part
from sensorium.wire.whole import whole

SECONDS: Final = range(1, 61)
PREFIX: Final = "video_"
_SIZE = re.compile(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})")
_OURS = ("prompt", "model", "seconds", "size", "input_reference")


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


def to_film(found: Members) -> Members:
    """The call in the words of `films.OPERATION`. Members that OpenAI does not have go on as they came.

    Raises Unprocessable for a missing prompt and for values that no video has.
    """
    if not jsonbody.text(found, "prompt"):
        raise Unprocessable("prompt is missing; send a string that says what to film", param="prompt")
    rest = {name: raw for name, raw in found.items() if name not in _OURS}
    length, sides, image = seconds(found), _size(found), _reference(found)
    made: Members = {"prompt": found["prompt"], **rest}
    made |= {"duration": _raw(length)} if length is not None else {}
    made |= {"width": _raw(sides[0]), "height": _raw(sides[1])} if sides is not None else {}
    return made | ({"image": image} if image is not None else {})


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
    length = whole(given, SECONDS[0], SECONDS[-1]) if isinstance(given, str) else given
    if isinstance(length, bool) or not isinstance(length, int) or length not in SECONDS:
        raise Unprocessable(f"seconds is {str(given)[:40]!r}; send a whole number, {SECONDS[0]}..{SECONDS[-1]}", param="seconds")
    return length


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


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
