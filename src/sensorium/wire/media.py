"""The media door's bodies: one small vocabulary in, the calls of the other doors out; their replies as artifacts or a text.

A member that an operation does not have is refused, so that a misspelt one is not lost. One that only the provider lacks is dropped where
the call is made for it, and told.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from sensorium.errors import BadRequest, InvalidImage, Unprocessable, UpstreamFailed
from sensorium.wire import dataurl, jsonbody, openai, parameters, picture, speech, video
from sensorium.wire.jsonbody import Members
from sensorium.wire.multipart import Part
from sensorium.wire.nvidia_models import PROMPT, SEED
from sensorium.wire.parameters import Integer, Number, Rule, Text

SIDE: Final = Integer(1, 16_384)
_MODEL: Final = Text(0, openai.MODEL_NAME_CAP)
_DRAWING: Final[dict[str, Rule]] = {
    "prompt": PROMPT, "model": _MODEL, "width": SIDE, "height": SIDE, "seed": SEED, "steps": Integer(1, 1000), "cfg_scale": Number(),
}  # fmt: skip
_ANY_TEXT: Final = Text(1, 1 << 30)
RULES: Final[dict[str, dict[str, Rule]]] = {
    "image.generate": {**_DRAWING, "n": Integer(1, 10)},
    "image.understand": {"prompt": Text(1, 1_000_000), "image": _ANY_TEXT, "model": _MODEL, "max_tokens": Integer(1, 1 << 31)},
    "audio.tts": {
        "input": Text(1, speech.LONGEST_TEXT),
        "voice": Text(1, 200),
        "format": Text(1, 20),
        "language": Text(2, 40),
        "model": _MODEL,
    },
    "audio.asr": {"audio": _ANY_TEXT, "language": Text(2, 40), "model": _MODEL},
    "video.generate": {**_DRAWING, "image": _ANY_TEXT, "duration": Number(0, 3600, above=True)},
}
NEEDED: Final[dict[str, tuple[str, ...]]] = {
    "image.generate": ("prompt",),
    "image.understand": ("prompt", "image"),
    "audio.tts": ("input",),
    "audio.asr": ("audio",),
    "video.generate": (),  # a prompt or a picture: the model knows which
}
EXTENSIONS: Final = frozenset({"seed", "steps", "cfg_scale", "language"})  # beyond OpenAI's protocol, in `drawing` and `spoken`
_ENDINGS: Final = {
    "audio/wav": "wav", "audio/ogg": "ogg", "audio/flac": "flac", "audio/mpeg": "mp3", "audio/mp4": "m4a", "audio/webm": "webm",
}  # fmt: skip


def read(op: str, given: Members) -> Members:
    """The members of a call to `op`, checked; null counts as not given.

    Raises Unprocessable for a member that the operation does not have, lacks or cannot take.
    """
    found = {name: raw for name, raw in given.items() if bytes(raw) != b"null"}
    parameters.refuse_unknown(found, RULES[op], op)
    for name, rule in RULES[op].items():
        held = parameters.check if name in NEEDED[op] else parameters.optional
        held(name, jsonbody.value(found, name), rule, op)
    if ("width" in found) != ("height" in found):
        raise Unprocessable("width and height go together; send both, or neither", param="height" if "width" in found else "width")
    return found


def drawing(found: Members) -> Members:
    """`image.generate` as OpenAI's images call, with the extensions that the hub's own images door has."""
    members = {name: raw for name, raw in found.items() if name not in ("width", "height")}
    if "width" in found:
        members["size"] = _raw(f"{int(jsonbody.value(found, 'width'))}x{int(jsonbody.value(found, 'height'))}")
    return members


def question(found: Members) -> Members:
    """`image.understand` as OpenAI's chat call. Raises InvalidImage for base64 that is no picture."""
    parts = [{"type": "text", "text": found["prompt"]}, {"type": "image_url", "image_url": {"url": _picture_url(found)}}]
    kept: Members = {name: found[name] for name in ("model", "max_tokens") if name in found}
    return {**kept, "messages": _raw([{"role": "user", "content": parts}]), "stream": _raw(False)}


def spoken(found: Members) -> Members:
    """`audio.tts` as OpenAI's speech call."""
    return {{"format": "response_format"}.get(name, name): raw for name, raw in found.items()}


def heard(found: Members) -> tuple[Part, ...]:
    """`audio.asr` as OpenAI's transcription form. Raises BadRequest for audio that is neither a data: URL nor base64."""
    given = jsonbody.text(found, "audio") or ""
    if "://" in given[:10]:
        raise Unprocessable("audio is a link, which is not followed; send the sound as base64 or as a data: URL", param="audio")
    try:
        sound = dataurl.parse(given if dataurl.is_data_url(given) else f"data:;base64,{given}")
    except BadRequest as error:
        raise BadRequest(f"audio: {error.message}", param="audio") from None
    media = speech.audio_type(sound.data) or sound.media_type or "application/octet-stream"
    file = Part("file", sound.data, f"audio.{_ENDINGS.get(media, 'bin')}", media)
    texts = [Part(name, (jsonbody.text(found, name) or "").encode()) for name in ("model", "language") if name in found]
    return (file, *texts)


def film(found: Members) -> Members:
    """`video.generate` with its picture as a data: URL, without the model; `films` puts it into the model's words."""
    members = {name: raw for name, raw in found.items() if name != "model"}
    return members | ({"image": _raw(_picture_url(found))} if "image" in found else {})


def pictures(body: bytes, provider: str) -> list[dict[str, Any]]:
    """The artifacts of OpenAI's images reply. Raises UpstreamFailed when there are none."""
    reply = _object(body)
    data = reply.get("data") if reply else None
    found = [made for one in data if isinstance(one, dict) and (made := _picture(one))] if isinstance(data, list) else []
    if not found:
        raise UpstreamFailed(f"{provider} answered without a picture")
    return found


def answered(body: bytes, provider: str) -> str:
    """The text of OpenAI's chat reply. Raises UpstreamFailed when there is none."""
    reply = _object(body) or {}
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str) or not text:
        raise UpstreamFailed(f"{provider} answered without a text")
    return text


def transcript(body: bytes, provider: str) -> str:
    """The text of a transcription. Raises UpstreamFailed when there is none; silence has an empty one."""
    text = (_object(body) or {}).get("text")
    if not isinstance(text, str):
        raise UpstreamFailed(f"{provider} answered without a transcript")
    return text


def sound(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Audio as an artifact."""
    media = headers.get("content-type", "").split(";")[0].strip() or speech.audio_type(body)
    return {"base64": base64.b64encode(body).decode("ascii"), "content_type": media}


def clip(body: bytes, provider: str) -> dict[str, Any]:
    """The artifact of a video reply, embedded or as a link.

    Raises UpstreamFailed when there is none, Unprocessable with code content_policy_violation when it was filtered.
    """
    if video.filtered(body):
        raise Unprocessable("the model's content filter refused this video", param="prompt", code="content_policy_violation")
    link = video.link(placed := video.placed(body, provider))
    if link is not None:
        return _linked(link)
    first = msgspec.json.decode(placed, type=dict[str, msgspec.Raw])["artifacts"]
    return {"base64": msgspec.json.decode(first, type=list[dict[str, msgspec.Raw]])[0]["base64"], "content_type": video.MP4}


def _picture(one: dict[str, Any]) -> dict[str, Any] | None:
    text, link = one.get("b64_json"), one.get("url")
    if isinstance(link, str) and dataurl.is_data_url(link):
        text = link.partition(",")[2]
    if isinstance(text, str) and text:
        return {"base64": text, "content_type": _type(text)}
    return _linked(link) if isinstance(link, str) and link else None


def _linked(link: str) -> dict[str, Any]:
    return {"url": link, "content_type": mimetypes.guess_type(urlsplit(link).path)[0]}


def _type(text: str) -> str | None:
    """What base64 holds, by its first bytes: a picture, or a model's mesh."""
    start = _start(text)
    return picture.media_type(start) or ("model/gltf-binary" if start[:4] == b"glTF" else None)


def _picture_url(found: Members) -> str:
    given = jsonbody.text(found, "image") or ""
    if dataurl.is_data_url(given) or given.startswith(("http://", "https://")):
        return given
    media = picture.media_type(_start(given))
    if media is None:
        raise InvalidImage("image is no picture: send base64, a data: URL, or an http(s) URL that the model can fetch", param="image")
    return f"data:{media};base64,{given}"


def _start(text: str) -> bytes:
    try:
        return base64.b64decode(text[:32][: min(len(text), 32) // 4 * 4])
    except ValueError:  # damaged, or not even ASCII
        return b""


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        reply = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return reply if isinstance(reply, dict) else None


def _raw(got: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(got))
