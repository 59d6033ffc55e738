"""A video call of the media door in the words of the model that makes it (NVIDIA page, section 9). Models that are not known here get the
members as they came."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from sensorium.errors import Unprocessable
from sensorium.wire import jsonbody, parameters
from sensorium.wire.jsonbody import Members

OPERATION: Final = "video.generate"
FPS: Final = 24  # cosmos' own default, written out where a duration is to mean something
_RATIOS: Final = {"16_9": 16 / 9, "1_1": 1.0, "9_16": 9 / 16, "4_3": 4 / 3, "3_4": 3 / 4}
_SHORT_SIDES: Final = (256, 480, 720)
_STILL: Final = ("image", "seed", "cfg_scale")
_WORDS: Final = ("prompt", "image", "width", "height", "duration", "steps", "seed", "cfg_scale", "model")  # of OPERATION; others go on


def translated(found: Members, model: str) -> tuple[Members, tuple[str, ...]]:
    """The model's own body, and what could not be kept as it was. Raises Unprocessable for a picture that is needed and missing."""
    name = model.rpartition("/")[2]
    rest = {name: raw for name, raw in found.items() if name not in _WORDS}
    made, changes = _in_words_of(name, {name: raw for name, raw in found.items() if name in _WORDS}, model)
    return made | rest, changes


def _in_words_of(name: str, found: Members, model: str) -> tuple[Members, tuple[str, ...]]:
    if name == "stable-video-diffusion":
        return _from_a_still(found, model)
    if not name.startswith("cosmos"):
        return found, ()
    body: Members = {name: found[name] for name in ("prompt", "image", "seed", "steps") if name in found}
    if "cfg_scale" in found:
        body["guidance_scale"] = found["cfg_scale"]
    if name.startswith("cosmos3"):
        return _named_resolution(found, body)
    size: Members = {name: found[name] for name in ("width", "height") if name in found}
    length = {"frames_count": _raw(_frames(found)), "frames_per_sec": _raw(FPS)} if "duration" in found else {}
    return (body | {"video_params": _raw({**size, **length})} if size or length else body), ()


def _from_a_still(found: Members, model: str) -> tuple[Members, tuple[str, ...]]:
    if "image" not in found:
        raise Unprocessable(f"image is missing; {model} moves a still picture", param="image")
    dropped = [name for name in found if name not in _STILL]
    return {name: found[name] for name in _STILL if name in found}, ((f"{parameters.listed(dropped)} dropped",) if dropped else ())


def _named_resolution(found: Members, body: Members) -> tuple[Members, tuple[str, ...]]:
    """cosmos3: a resolution by name, and a frame count of the form 4k + 1."""
    changes: list[str] = []
    if "width" in found and "height" in found:
        width, height = int(jsonbody.value(found, "width")), int(jsonbody.value(found, "height"))
        ratio = min(_RATIOS, key=lambda name: abs(math.log(_RATIOS[name] * height / width)))
        short = min(_SHORT_SIDES, key=lambda side: abs(side - min(width, height)))
        body = body | {"resolution": _raw(f"{short}_{ratio}")}
        changes.append(f"size {width}x{height} -> resolution {short}_{ratio}")
    if "duration" in found:
        frames = 4 * max(1, round((_frames(found) - 1) / 4)) + 1
        body = body | {"num_output_frames": _raw(frames), "fps": _raw(FPS)}
        changes.append(f"duration -> {frames} frames at {FPS} a second")
    return body, tuple(changes)


def _frames(found: Members) -> int:
    return max(1, round(float(jsonbody.value(found, "duration")) * FPS))


def _raw(got: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(got))
