"""What lies in a message beside its text: pictures, sound and video, inline, by URL or as assets; and what the simulator says about them.

Pictures are really decoded, so that two different pictures get two different answers. Nothing is fetched from the network.
Guesses: the bodies of the refusals (a vLLM error for what cannot be decoded, a 422 list for a picture above the inline limit).
"""

from __future__ import annotations

import io
import re

from PIL import Image

from sensorium.errors import BadRequest
from sensorium.simulators.nvidia.ask import Ask, item, refuse
from sensorium.simulators.nvidia.replies import vllm_error
from sensorium.simulators.replies import Refused
from sensorium.simulators.sound import UnknownSound, probe
from sensorium.wire import dataurl

PIXEL_CAP = 50_000_000
NOUNS = {"image": "a picture", "audio": "a sound", "video": "a video"}
_ASSET = re.compile(r"data:[^;,]*;asset_id,([0-9a-fA-F-]{36})")
NAMED = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "orange": (255, 165, 0),
    "purple": (128, 0, 128),
    "brown": (139, 69, 19),
    "cyan": (0, 255, 255),
    "pink": (255, 192, 203),
}


def described(kind: str, url: str, where: tuple[str | int, ...], ask: Ask) -> str:
    """One sentence about an attachment of `kind` (image, audio, video). Raises Refused for what cannot be used."""
    if url.startswith(("http://", "https://")):
        return f"{NOUNS[kind]} at {url[:200]}, which the simulator does not fetch"
    data = _bytes(kind, url, where, ask)
    if kind == "image":
        return _picture(data, where)
    if kind == "audio":
        try:
            sound = probe(data)
        except UnknownSound as error:
            raise _unusable(where, str(error)) from None
        return f"a sound of {sound.seconds:.2f} seconds"
    return f"a video of {len(data)} bytes"


def _bytes(kind: str, url: str, where: tuple[str | int, ...], ask: Ask) -> bytes:
    if asset := _ASSET.fullmatch(url):
        if asset[1].lower() not in ask.assets:
            raise _unusable(where, "the asset is not among the referenced ones")
        return ask.assets[asset[1].lower()]
    if not dataurl.is_data_url(url):
        raise _unusable(where, "neither a data: URL nor an http(s) one")
    encoded = url.partition(",")[2]
    cap = ask.model.inline_cap
    if kind == "image" and cap is not None and len(encoded) >= cap:
        most = cap - 1
        refuse([item("string_too_long", where, f"String should have at most {most} characters", "data:...", {"max_length": most})])
    try:
        return dataurl.parse(url).data
    except BadRequest as error:
        raise _unusable(where, error.message) from None


def _picture(data: bytes, where: tuple[str | int, ...]) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > PIXEL_CAP:
                raise _unusable(where, f"{width}x{height} pixels are too many")
            mean = image.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise _unusable(where, "cannot identify image file") from None
    assert isinstance(mean, tuple)
    red, green, blue = (int(part) for part in mean)
    name = min(NAMED, key=lambda name: sum((a - b) ** 2 for a, b in zip((red, green, blue), NAMED[name], strict=True)))
    return f"a picture of {width}x{height} pixels with the mean colour #{red:02x}{green:02x}{blue:02x}, {name}"


def _unusable(where: tuple[str | int, ...], said: str) -> Refused:
    path = ".".join(map(str, where))
    return Refused(vllm_error(400, f"{path}: {said}", path))
