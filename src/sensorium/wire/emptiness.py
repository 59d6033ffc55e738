"""Whether a reply that should carry pictures, sound or video carries none, told from as little of it as possible.

What a service calls its media is its own affair, so only a reply that plainly holds nothing counts as empty.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

# Media inside JSON: so many characters of base64 in a row (with what JSON may escape in it) are no prompt and no sentence.
EMBEDDED: Final = re.compile(rb"[A-Za-z0-9+/=_\\-]{512}")
RUN: Final = 512
_PLACES: Final = (
    *("artifacts", "data", "images", "image", "base64", "b64_json"),
    *("videos", "video", "b64_video", "video_base64", "url", "audio"),
)
_FINISH: Final = ("finishReason", "finish_reason")
# what is said about an artifact beside it
_DESCRIBING: Final = frozenset(
    {*_FINISH, "seed", "revised_prompt", "content_type", "contentType", "mime_type", "index", "object", "type", "id", "width", "height"}
)


def embedded(body: bytes | bytearray, searched: int = 0) -> bool:
    """Whether media has begun in this beginning of a JSON body, of which `searched` bytes were looked at before."""
    return EMBEDDED.search(body, max(0, searched - RUN)) is not None


def is_empty(body: bytes | bytearray) -> bool:
    """Whether a whole body holds no media: no byte, `{}`, or nothing in any of the places where media is known to be.

    A reply of the content filter is not empty: it answers the call.
    """
    if not body.strip():
        return True
    try:
        reply = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if not isinstance(reply, dict) or not reply:
        return reply in ({}, [])
    places = [reply[name] for name in _PLACES if name in reply]
    return bool(places) and not _filtered(reply) and not any(map(_holds, places))


def _holds(place: Any) -> bool:
    if isinstance(place, list):
        return any(map(_holds, place))
    if isinstance(place, dict):
        return any(_holds(value) for name, value in place.items() if name not in _DESCRIBING)
    return isinstance(place, str) and bool(place.strip())


def _filtered(reply: Any) -> bool:
    if isinstance(reply, list):
        return any(map(_filtered, reply))
    if not isinstance(reply, dict):
        return False
    lists = (reply.get(name) for name in ("artifacts", "data", "images", "videos"))
    return any(reply.get(name) == "CONTENT_FILTERED" for name in _FINISH) or any(map(_filtered, lists))
