"""fal's apps in the shapes of the hub's doors, both ways: genai pictures, a chat about one picture, videos. Named pairs; pure.

OpenAI's images come here as genai bodies (`translate`). Members that genai does not define go on as they came, so that an app's own
inputs (`image_url`, `loras`, `enable_safety_checker`) can be used.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from sensorium.errors import Unprocessable, UpstreamFailed
from sensorium.wire import dataurl, jsonbody, parameters, sse
from sensorium.wire.jsonbody import Members

SIDE: Final = 1024  # genai's width and height where the call names none; fal's own default is another size
MOST_TOKENS: Final = 512  # that the app generates where the call does not say
_RENAMED: Final = {"steps": "num_inference_steps", "cfg_scale": "guidance_scale", "samples": "num_images"}
_SIDES: Final = ("width", "height")
_WITHOUT_MEANING: Final = ("mode", "model", "sampler", "clip_guidance_preset", "style_preset")
_REPLACED: Final = ("prompt", "text_prompts", *_SIDES, "seed", "image", *_RENAMED, *_WITHOUT_MEANING)
_ASKED: Final = ("max_tokens", "num_inference_steps", "inference_steps", "block_length", "threshold")
_READ: Final = ("model", "messages", "stream", "stream_options", "max_completion_tokens", "user", *_ASKED)
_NAMESPACES: Final = ("workflows", "comfy")  # which stand before an app's owner
_SPEAKERS: Final = {"user": "User", "assistant": "Assistant"}
Files = Mapping[str, bytes]
"""The files that a result links to, by their links."""


@dataclass(frozen=True, slots=True)
class Input:
    """What an app is sent, and what of the call could not be kept."""

    members: Members
    changes: tuple[str, ...] = ()


def endpoint(app: str) -> str:
    """The part of an app's id below which its requests are: owner and alias, without a sub-path."""
    parts = app.split("/")
    return "/".join(parts[: 3 if parts[0] in _NAMESPACES else 2])


def drawing(found: Members) -> Input:
    """A genai body as the input of a text-to-image app. The picture is asked for inside the result (`sync_mode`), to save a fetch.

    genai's seed 0 and cfg_scale 0 ask for the model's own choice and are left out. Raises Unprocessable for a picture to work on.
    """
    given = {name: raw for name, raw in found.items() if bytes(raw) != b"null"}
    if "image" in given:
        raise Unprocessable("image: fal's text-to-image apps take no picture; leave it out", param="image")
    made = _prompted(given) | {new: given[old] for old, new in _RENAMED.items() if old in given}
    if jsonbody.value(given, "cfg_scale") == 0:
        del made["guidance_scale"]
    if "seed" in given and jsonbody.value(given, "seed") != 0:
        made["seed"] = given["seed"]
    dropped = [name for name in _WITHOUT_MEANING if name in given] + [old for old, new in _RENAMED.items() if {old, new} <= given.keys()]
    dropped += ["prompt"] if {"prompt", "text_prompts"} <= given.keys() else []
    if "image_size" in given or "aspect_ratio" in given:
        dropped += [side for side in _SIDES if side in given]
    else:
        made["image_size"] = _raw({side: given.get(side, SIDE) for side in _SIDES})
    own = {name: raw for name, raw in given.items() if name not in _REPLACED}
    return Input({"sync_mode": _raw(True)} | made | own, _dropped(dropped))


def asking(found: Members) -> Input:
    """A chat call as the input of an app that answers a prompt about one picture.

    Several messages become one prompt, which is told in `changes`. Raises Unprocessable for more than one picture, none, or other parts.
    """
    texts, pictures, dropped = _said(jsonbody.value(found, "messages") or [])
    if len(pictures) != 1:
        raise Unprocessable(f"messages hold {len(pictures)} pictures; this model takes exactly one", param="messages")
    given = {name: raw for name, raw in found.items() if bytes(raw) != b"null"}
    made = {name: given[name] for name in _ASKED if name in given}
    if "max_completion_tokens" in given:
        made.setdefault("max_tokens", given["max_completion_tokens"])
    dropped += [name for name in given if name not in _READ and not (name == "n" and bytes(given[name]) == b"1")]
    folded = ("messages joined into one prompt",) if len(texts) > 1 else ()
    return Input({"image_url": _raw(pictures[0]), "prompt": _raw(_joined(texts))} | made, (*folded, *_dropped(dropped)))


def result(body: bytes, provider: str) -> dict[str, Any]:
    """An app's output. Raises UpstreamFailed when it is no JSON object."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UpstreamFailed(f"{provider} answered with something that is not a JSON object")
    return found


def links(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The links to files in an output; files inside it (`data:` URLs) need no fetch."""
    urls = (file.get("url") for file in (*_pictures(found), _object(found.get("video"))))
    return tuple(url for url in urls if isinstance(url, str) and not dataurl.is_data_url(url))


def drawn(found: Mapping[str, Any], files: Files, provider: str) -> bytes:
    """An output with `images` as a genai reply. Raises UpstreamFailed when there is no picture in it."""
    flagged = found.get("has_nsfw_concepts")
    flags = flagged if isinstance(flagged, list) else []
    pictures = [_base64(picture.get("url"), files) for picture in _pictures(found)]
    if not pictures or None in pictures:
        raise UpstreamFailed(f"{provider} answered without a picture")
    artifacts = [
        {
            "base64": picture,
            "finishReason": "CONTENT_FILTERED" if place < len(flags) and flags[place] is True else "SUCCESS",
            "seed": found.get("seed"),
        }
        for place, picture in enumerate(pictures)
    ]
    return msgspec.json.encode({"artifacts": artifacts})


def filmed(found: Mapping[str, Any], files: Files, provider: str) -> bytes:
    """An output with a `video`, and the video in `artifacts[0].base64` beside it. Raises UpstreamFailed when there is none."""
    film = _base64(_object(found.get("video")).get("url"), files)
    if film is None:
        raise UpstreamFailed(f"{provider} answered without a video")
    return msgspec.json.encode({**found, "artifacts": [{"base64": film, "finishReason": "SUCCESS", "seed": found.get("seed")}]})


def answered(found: Mapping[str, Any], asked: Members, identity: Mapping[str, Any], provider: str) -> bytes:
    """An output with `output` as a chat completion, or as its events when `asked` wants a stream.

    `identity` are the members `id`, `created` and `model`. Raises UpstreamFailed when there is no text in it.
    """
    text = found.get("output")
    if not isinstance(text, str):
        raise UpstreamFailed(f"{provider} answered without an output")
    usage = _spent(_object(found.get("usage")))
    most = jsonbody.value(asked, "max_tokens") or jsonbody.value(asked, "max_completion_tokens") or MOST_TOKENS
    reason = "length" if isinstance(most, int) and usage.get("completion_tokens", 0) >= most else "stop"
    more = {name: found[name] for name in ("timings",) if name in found}
    if jsonbody.flag(asked, "stream"):
        return _events(text, reason, {"usage": usage, **more}, asked, identity)
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": reason}
    return msgspec.json.encode({**identity, "object": "chat.completion", "choices": [choice], "usage": usage, **more})


def _events(text: str, reason: str, told: Mapping[str, Any], asked: Members, identity: Mapping[str, Any]) -> bytes:
    shared = {**identity, "object": "chat.completion.chunk"}
    counted = _object(jsonbody.value(asked, "stream_options")).get("include_usage") is True
    frames: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}]},
        *([{"choices": [], **told}] if counted else []),
    ]
    return b"".join(sse.event(msgspec.json.encode({**shared, **frame})) for frame in frames) + sse.DONE


def _spent(usage: Mapping[str, Any]) -> dict[str, Any]:
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    whole = [count for count in counts if isinstance(count, int)]
    return {**usage, "total_tokens": sum(whole)} if len(whole) == 2 else {}


def _prompted(given: Members) -> Members:
    if "text_prompts" not in given:
        return {"prompt": given["prompt"]} if "prompt" in given else {}
    prompts = jsonbody.value(given, "text_prompts")
    weighted = {one["text"]: one.get("weight", 1) for one in prompts if _is_prompt(one)} if isinstance(prompts, list) else {}
    if not weighted or len(weighted) < len(prompts):
        raise Unprocessable('text_prompts must be an array of {"text": "...", "weight": 1 or -1}', param="text_prompts")
    wanted, unwanted = ([text for text, weight in weighted.items() if (weight < 0) is less] for less in (False, True))
    return {"prompt": _raw(", ".join(wanted))} | ({"negative_prompt": _raw(", ".join(unwanted))} if unwanted else {})


def _is_prompt(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("text"), str) and one.get("weight", 1) in (1, -1)


def _said(messages: Iterable[Any]) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """(who, text) of every message, the pictures of all, and what of them is dropped."""
    texts, pictures, dropped = list[tuple[str, str]](), list[str](), list[str]()
    for place, message in enumerate(messages):
        content, words = message.get("content"), list[str]()
        for number, part in enumerate(content if isinstance(content, list) else [{"type": "text", "text": content or ""}]):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                words.append(part["text"])
            elif kind == "image_url" and (url := _url(part.get("image_url"))):
                pictures.append(url)
                dropped += ["image_url.detail"] if _object(part["image_url"]).get("detail") not in (None, "auto") else []
            else:
                where = f"messages[{place}].content[{number}]"
                raise Unprocessable(f"{where} is neither text nor a picture, and this model takes nothing else", param=where)
        text = "\n".join(word for word in words if word)
        if text:
            texts.append((str(message.get("role")), text))
        dropped += [f"messages.{name}" for name in message if name not in ("role", "content") and message[name] is not None]
    return texts, pictures, list(dict.fromkeys(dropped))


def _url(given: Any) -> str | None:
    url = given.get("url") if isinstance(given, dict) else given
    return url if isinstance(url, str) else None


def _joined(texts: list[tuple[str, str]]) -> str:
    """One prompt: instructions first as they are, and who says what only where both speak."""
    both = any(who == "assistant" for who, _ in texts)
    return "\n\n".join(f"{_SPEAKERS[who]}: {text}" if both and who in _SPEAKERS else text for who, text in texts)


def _pictures(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    images = found.get("images")
    listed = images if isinstance(images, list) else [found["image"]] if "image" in found else []
    return [_object(image) for image in listed]


def _base64(url: Any, files: Files) -> str | None:
    """The file behind a link, or inside a `data:` URL; None where there is none."""
    if not isinstance(url, str):
        return None
    if dataurl.is_data_url(url):
        return url.partition(",")[2] or None
    return base64.b64encode(files[url]).decode("ascii") if url in files else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dropped(names: Iterable[str]) -> tuple[str, ...]:
    listed = list(names)
    return (f"{parameters.listed(listed)} dropped",) if listed else ()


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
