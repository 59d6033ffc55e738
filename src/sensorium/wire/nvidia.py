"""NVIDIA's genai dialect in the direction of callers: error bodies, and what a reply holds. `nvidia_models` has the other direction."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import msgspec

from sensorium.errors import SensoriumError, Unprocessable, UpstreamFailed
from sensorium.wire import dataurl, picture
from sensorium.wire.openai import error_object

_LISTS = ("artifacts", "data", "images")
_PICTURES = ("base64", "b64_json", "image", "data", "url")


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a genai reply holds: the base64 of its picture or of whatever else the model makes (None: nothing, or a mere link), and
    whether the content filter refused to draw, which NVIDIA answers with 200 and a picture of nothing."""

    base64: str | None
    filtered: bool

    @property
    def media_type(self) -> str | None:
        """The type by magic bytes, None when it is no picture."""
        start = (self.base64 or "")[:32]
        try:
            return picture.media_type(base64.b64decode(start[: len(start) // 4 * 4]))
        except ValueError:  # damaged, or not even ASCII
            return None


def error(err: SensoriumError, request_id: str) -> bytes:
    """NVIDIA's clients read the top-level `detail`; the `error` member is the same on every route."""
    return msgspec.json.encode({"detail": err.message, "error": error_object(err, request_id)})


def artifact(body: bytes | bytearray) -> Artifact:
    """The first artifact of a genai reply, wherever the model put it (NVIDIA page, section 7.5). What is not JSON holds none."""
    try:
        reply = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        reply = None
    if not isinstance(reply, dict):
        return Artifact(None, False)
    places = [_first(reply.get(name)) for name in _LISTS] + [reply]
    filtered = any(place.get(name) == "CONTENT_FILTERED" for place in places for name in ("finishReason", "finish_reason"))
    found = (_embedded(name, place.get(name)) for place in places for name in _PICTURES)
    return Artifact(next((text for text in found if text), None), filtered)


def drawn(body: bytes, provider: str) -> str:
    """The base64 picture of a genai reply by `provider`.

    Raises Unprocessable with code content_policy_violation when the picture was filtered, UpstreamFailed when there is none.
    """
    found = artifact(body)
    if found.filtered:
        raise Unprocessable("the model's content filter refused this picture", param="prompt", code="content_policy_violation")
    if found.base64 is None:
        raise UpstreamFailed(f"{provider} answered without a picture, or with a mere link to one, which is not followed")
    return found.base64


def _first(items: Any) -> dict[str, Any]:
    """The first of a list, of an object keyed "0", or a bare string, as an object."""
    if isinstance(items, dict):
        items = list(items.values())
    first = items[0] if isinstance(items, list) and items else None
    return first if isinstance(first, dict) else {"base64": first}


def _embedded(name: str, text: Any) -> str | None:
    """Base64 as it stands or inside a data: URL; None for a link and for what is no string."""
    if not isinstance(text, str):
        return None
    if dataurl.is_data_url(text):
        return text.partition(",")[2]
    return None if name == "url" or "://" in text[:8] else text
