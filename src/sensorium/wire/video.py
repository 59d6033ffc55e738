"""Where a video is in a reply, and putting it into one documented place: `artifacts[0].base64` (NVIDIA page, section 9; hub contract A5.3).

The other members stay byte for byte; what is large is never decoded.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec

from sensorium.errors import UpstreamFailed
from sensorium.exchange import JSON
from sensorium.wire import dataurl
from sensorium.wire.jsonbody import Members

MP4: Final = "video/mp4"
_MEMBERS: Final = ("b64_video", "video", "video_base64", "b64_json", "base64")
_LISTS: Final = ("artifacts", "data", "videos")
_INSIDE: Final = ("base64", "b64_json", "b64_video", "video", "data")
_FINISH: Final = ("finish_reason", "finishReason")
_members = msgspec.json.Decoder(Members)
_list = msgspec.json.Decoder(list[msgspec.Raw])


def media_type(body: bytes) -> str:
    """The type of a body whose header was lost: an MP4 file or else JSON."""
    return MP4 if body[4:8] == b"ftyp" else JSON


def joined(response: bytes | None, film: bytes | None) -> bytes:
    """One body out of a response and a film that came beside it: the film goes in where the response holds none."""
    if film is None or response is None:
        return response or film or b""
    reply = _object(response)
    if reply is None:
        return film
    return response if _found(reply) is not None else _with_artifact(reply, _text(film))


def placed(body: bytes, provider: str) -> bytes:
    """The JSON reply with the video in `artifacts[0].base64`, beside what it held; a bare MP4 file becomes such a reply.

    A reply that holds but a link stays as it is. Raises UpstreamFailed when there is no video in it.
    """
    if media_type(body) == MP4:
        return _with_artifact({}, _text(body))
    reply = _object(body)
    if reply is None:
        raise UpstreamFailed(f"{provider} answered with something that is neither JSON nor a video")
    first = _first(reply, "artifacts")
    if isinstance(first, dict) and _embedded(first.get("base64")) is not None:
        return body
    film = _found(reply)
    if film is not None:
        return _with_artifact(reply, film)
    if filtered(body) or _linked(reply):
        return body
    raise UpstreamFailed(f"{provider} answered without a video")


def embedded(body: bytes) -> bytes | None:
    """The base64 of the video in a reply, None where it holds but a link."""
    film = _found(_object(body) or {})
    return bytes(memoryview(film))[1:-1] if film is not None else None


def link(body: bytes) -> str | None:
    """The link of a reply that holds no more than one to its video."""
    reply = _object(body) or {}
    if _found(reply) is not None:
        return None
    texts = (_decoded(place[name]) for place in _places(reply) for name in ("url", *_MEMBERS) if name in place)
    return next((text for text in texts if "://" in text[:16]), None)


def filtered(body: bytes) -> bool:
    """Whether the model's content filter refused, which is answered with 200 and a video of nothing."""
    places = _places(_object(body) or {})
    return any(_head(place[name], 20) == b'"CONTENT_FILTERED"' for place in places for name in _FINISH if name in place)


def _found(reply: Members) -> msgspec.Raw | None:
    """The base64 of the video, still encoded as a JSON string."""
    for name in _LISTS:
        first = _first(reply, name)
        inside = [first.get(key) for key in _INSIDE] if isinstance(first, dict) else [first]
        film = next((text for raw in inside if (text := _embedded(raw)) is not None), None)
        if film is not None:
            return film
    return next((text for name in _MEMBERS if (text := _embedded(reply.get(name))) is not None), None)


def _first(reply: Members, name: str) -> Members | msgspec.Raw | None:
    """The first item of a list, or of an object keyed "0"."""
    raw = reply.get(name)
    if raw is None:
        return None
    items = _items(raw)
    if items is None:
        return raw
    return (_object(items[0]) or items[0]) if items else None


def _items(raw: msgspec.Raw) -> list[msgspec.Raw] | None:
    """The items of a list, or of an object keyed "0"; None where it is neither."""
    start = _head(raw, 1)
    if start == b"{":
        return [one for key, one in (_object(raw) or {}).items() if key == "0"]
    return _list.decode(raw) if start == b"[" else None


def _embedded(raw: Any) -> msgspec.Raw | None:
    """A non-empty JSON string that is base64 or a data: URL of it; None for links and everything else."""
    if not isinstance(raw, msgspec.Raw) or _head(raw, 1) != b'"' or _head(raw, 2) == b'""':
        return None
    start = _head(raw, 16)[1:].decode("utf-8", "replace")
    if dataurl.is_data_url(start):
        return msgspec.Raw(msgspec.json.encode(msgspec.json.decode(raw, type=str).partition(",")[2]))
    return None if "://" in start else raw


def _linked(reply: Members) -> bool:
    return any(b"://" in _head(place[name], 16) for place in _places(reply) for name in ("url", *_MEMBERS) if name in place)


def _places(reply: Members) -> list[Members]:
    """Where members may be: the reply itself, and the first item of each list."""
    return [reply, *(place for name in _LISTS if isinstance(place := _first(reply, name), dict))]


def _decoded(raw: Any) -> str:
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):  # no string
        return ""


def _with_artifact(reply: Members, film: msgspec.Raw) -> bytes:
    rest = _items(reply["artifacts"]) or [] if "artifacts" in reply else []
    first = (_object(rest[0]) if rest else None) or {}
    return msgspec.json.encode({**reply, "artifacts": [{**first, "base64": film}, *rest[1:]]})


def _head(raw: msgspec.Raw, length: int) -> bytes:
    return bytes(memoryview(raw)[:length])


def _text(film: bytes) -> msgspec.Raw:
    return msgspec.Raw(b'"' + base64.b64encode(film) + b'"')


def _object(body: Any) -> Members | None:
    try:
        return _members.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
