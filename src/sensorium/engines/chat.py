"""The OpenAI dialect of a vision model: a chat body to a question with pictures, events to a reply or to stream chunks.

Ranges are the engine's affair; here values get their place. It knows neither transport nor queue.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from sensorium.engines.diffusion_vlm.answering import Delta, Finished
from sensorium.engines.diffusion_vlm.ask import Ask
from sensorium.errors import BadRequest, Unprocessable
from sensorium.wire import jsonbody, openai, sse
from sensorium.wire.jsonbody import Members

_BOOK_KEEPING = ("user", "store", "metadata")  # changes no answer
_OURS = ("mode", "threshold", "block_length", "steps", "num_inference_steps")
_OFFICIAL = ("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "stop", "temperature", "seed", "n")
_FORMAT = "response_format"
FIELDS = frozenset((*_OFFICIAL, _FORMAT, *_OURS, *_BOOK_KEEPING))
_IN_MESSAGE, _IN_PICTURE, _IN_STREAM = ("role", "content"), ("url",), ("include_usage",)
_IN_SCHEMA = ("name", "schema", "strict", "description")
_SCHEMA_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
ANY_OBJECT = '{"type":"object"}'
ROLES = {"developer": "system"}
PICTURES = 16
STOPS = 4
FORWARDS = ("prefill", "denoise", "write", "draft", "verify")
Load = Callable[[str, str, int], Awaitable[tuple[Any, int]]]


@dataclass(frozen=True, slots=True)
class ChatCall:
    """What a body asks for. `pictures` is where its pictures still are: (url, part name), in order; `ignored` names what has no effect
    here, `fetching_s` counts the seconds that the pictures took."""

    model: str
    ask: Ask
    stream: bool
    include_usage: bool
    ignored: tuple[str, ...]
    pictures: tuple[tuple[str, str], ...] = ()
    fetching_s: float = 0.0


@dataclass(slots=True)
class Content:
    """Messages in the engine's form, where their pictures are, and the names of their members without effect."""

    messages: list[dict[str, Any]]
    pictures: list[tuple[str, str]]
    ignored: list[str]


def read(body: bytes) -> ChatCall:
    """Read a chat body. Raises BadRequest and Unprocessable for what is out of form."""
    found = jsonbody.members(body)
    openai.chat_needs(found)
    call = options(found)
    content = conversation(jsonbody.value(found, "messages"))
    ignored = tuple(dict.fromkeys((*call.ignored, *content.ignored)))
    return replace(call, ask=replace(call.ask, messages=content.messages), pictures=tuple(content.pictures), ignored=ignored)


async def with_pictures(call: ChatCall, load: Load, pixel_cap: int) -> ChatCall:
    """The call with its pictures loaded by `load(url, part name, pixels left)`, which returns what the model sees and its pixels.

    All pictures of a call share `pixel_cap`. Raises what `load` raises.
    """
    if not call.pictures:
        return call
    begun, left, images = time.perf_counter(), pixel_cap, []
    for url, where in call.pictures:
        image, pixels = await load(url, where, left)
        left -= pixels
        images.append(image)
    return replace(call, ask=replace(call.ask, images=images), pictures=(), fetching_s=time.perf_counter() - begun)


def options(found: Members) -> ChatCall:
    """Everything but the messages. A null counts as not given, except for `threshold`, where it turns the threshold off."""
    choices = jsonbody.value(found, "n")
    if choices not in (None, 1) or isinstance(choices, bool):
        raise Unprocessable("n must be 1: this model gives one answer per call", param="n")
    given = {
        "max_tokens": _either(found, "max_tokens", "max_completion_tokens"),
        "steps": _either(found, "steps", "num_inference_steps"),
        **{name: jsonbody.value(found, name) for name in ("block_length", "mode", "temperature", "seed")},
    }
    fields = {name: value for name, value in given.items() if value is not None}
    schema, unheard = _answer_schema(found)
    if schema is not None:
        fields = {"mode": "auto"} | fields | {"schema": schema}
    streaming = _stream_options(found)
    ignored = [name for name in found if name not in FIELDS and jsonbody.value(found, name) is not None]
    if "threshold" in found:
        fields["threshold"] = jsonbody.value(found, "threshold")
    return ChatCall(
        model=openai.model_name(found),
        ask=Ask(messages=(), stop=_stops(jsonbody.value(found, "stop")), **fields),
        stream=jsonbody.flag(found, "stream"),
        include_usage=streaming.get("include_usage") is True,
        ignored=(*ignored, *unheard, *_unused(streaming, _IN_STREAM, "stream_options.")),
    )


def conversation(messages: list[dict[str, Any]]) -> Content:
    """OpenAI messages to the engine's form. Raises BadRequest that names the part which cannot be used."""
    content = Content([], [], [])
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        role = message.get("role")
        if not isinstance(role, str):
            raise BadRequest(f"{where}.role is missing or not a string", param=f"{where}.role")
        content.ignored += _unused(message, _IN_MESSAGE, "messages.")
        parts = list(_parts(message.get("content"), where, content))
        content.messages.append({"role": ROLES.get(role, role), "content": parts})
    if len(content.pictures) > PICTURES:
        raise BadRequest(f"messages hold {len(content.pictures)} pictures; at most {PICTURES} are read", param="messages")
    return content


def completion(call: ChatCall, identity: Mapping[str, Any], text: str, finished: Finished) -> bytes:
    """The whole reply. `identity` holds id, created and model."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": finished.reason}
    return msgspec.json.encode({**identity, "object": "chat.completion", "choices": [choice], **_spent(call, finished)})


class Chunks:
    """The frames of a streamed reply: role first, then text, the reason, usage when asked for, and the end mark."""

    def __init__(self, call: ChatCall, identity: Mapping[str, Any]) -> None:
        self._call = call
        self._shared = {**identity, "object": "chat.completion.chunk"}

    def begin(self) -> bytes:
        """The frame that says who speaks."""
        return self._frame({"role": "assistant", "content": ""}, None)

    def text(self, delta: Delta) -> bytes:
        """One committed piece."""
        return self._frame({"content": delta.text}, None)

    def end(self, finished: Finished) -> bytes:
        """The last frames."""
        frames = self._frame({}, finished.reason)
        if self._call.include_usage:
            frames += sse.event(msgspec.json.encode({**self._shared, "choices": [], **_spent(self._call, finished)}))
        return frames + sse.DONE

    def _frame(self, delta: Mapping[str, Any], reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self._call.include_usage else {}
        return sse.event(msgspec.json.encode({**self._shared, "choices": [choice], **usage}))


def _spent(call: ChatCall, finished: Finished) -> dict[str, Any]:
    """Usage and timings."""
    used = asdict(finished.usage)
    usage = {name: used[name] for name in ("prompt_tokens", "completion_tokens", "num_function_evals", "mode")}
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    usage["prompt_tokens_details"] = {"cached_tokens": used["cached_tokens"]}
    usage["forwards"] = {name: used[name] for name in FORWARDS}
    return {"usage": usage, "timings": timings(call, finished)}


def timings(call: ChatCall, finished: Finished) -> dict[str, float]:
    """Seconds by part; fetching and decoding the pictures counts as their validation."""
    spent = asdict(finished.timings)
    for part in ("total_time", "image_validation_time"):
        spent[part] += call.fetching_s
    return spent


def _parts(given: Any, where: str, content: Content) -> Iterator[dict[str, str]]:
    """One message's parts; where its pictures are, and what has no effect in them, is added to `content`."""
    if given is None or isinstance(given, str):
        yield {"type": "text", "text": given or ""}
        return
    if not isinstance(given, list):
        raise BadRequest(f"{where}.content must be a string or an array of parts", param=f"{where}.content")
    for place, part in enumerate(given):
        name = f"{where}.content[{place}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield {"type": "text", "text": part["text"]}
        elif kind == "image_url":
            content.pictures.append((_url(part, name), name))
            if isinstance(part["image_url"], dict):
                content.ignored += _unused(part["image_url"], _IN_PICTURE, "image_url.")
            yield {"type": "image"}
        else:
            raise BadRequest(f"{name} must be a text part or an image_url part, not {kind!r:.60}", param=name)


def _url(part: dict[str, Any], name: str) -> str:
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str) or not url:
        raise BadRequest(f"{name}.image_url.url must be a data: or http(s) URL", param=name)
    return url


def _either(found: Members, name: str, other: str) -> Any:
    """One value under two names. Raises Unprocessable when they differ."""
    values = [value for value in (jsonbody.value(found, name), jsonbody.value(found, other)) if value is not None]
    if len(values) == 2 and values[0] != values[1]:
        raise Unprocessable(f"{name} and {other} are the same thing but differ; send one of them", param=name)
    return values[0] if values else None


def _stops(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    stops = given if isinstance(given, list) else [given]
    if len(stops) > STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise Unprocessable(f"stop must be a non-empty string or an array of up to {STOPS}", param="stop")
    return tuple(stops)


def _answer_schema(found: Members) -> tuple[str | None, list[str]]:
    """The JSON text of the schema that the answer is held to, None where it is free, and the names without effect. Raises BadRequest.

    The text stays as it came: the order of its members is the answer's order. The guarantee is the same whatever `strict` says.
    """
    given = jsonbody.value(found, _FORMAT)
    if given is None:
        return None, []
    kind = given.get("type") if isinstance(given, dict) else None
    if kind in ("text", "json_object"):
        return ANY_OBJECT if kind == "json_object" else None, _unused(given, ("type",), f"{_FORMAT}.")
    if kind != "json_schema":
        hint = 'send {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {...}}'
        raise BadRequest(f"{_FORMAT}.type is {kind!r:.60}, which there is not", param=f"{_FORMAT}.type", hint=hint)
    asked, where = given.get("json_schema"), f"{_FORMAT}.json_schema"
    if not isinstance(asked, dict):
        raise BadRequest(f"{where} must be an object with name and schema", param=where)
    if not isinstance(name := asked.get("name"), str) or not _SCHEMA_NAME.fullmatch(name):
        raise BadRequest(f"{where}.name must be up to 64 letters, digits, _ and -", param=f"{where}.name")
    if not isinstance(asked.get("schema"), dict):
        raise BadRequest(f"{where}.schema must be an object, a JSON schema", param=f"{where}.schema")
    if not isinstance(asked.get("strict"), bool | None):
        raise BadRequest(f"{where}.strict must be true or false", param=f"{where}.strict")
    ignored = _unused(given, ("type", "json_schema"), f"{_FORMAT}.") + _unused(asked, _IN_SCHEMA, f"{where}.")
    raw = msgspec.json.decode(msgspec.json.decode(found[_FORMAT], type=Members)["json_schema"], type=Members)["schema"]
    return bytes(raw).decode(), ignored


def _stream_options(found: Members) -> dict[str, Any]:
    given = jsonbody.value(found, "stream_options")
    if given is not None and not isinstance(given, dict):
        raise Unprocessable("stream_options must be an object", param="stream_options")
    usage = (given or {}).get("include_usage")
    if usage is not None and not isinstance(usage, bool):
        raise Unprocessable("stream_options.include_usage must be true or false", param="stream_options")
    return given or {}


def _unused(given: Mapping[str, Any], known: Sequence[str], prefix: str) -> list[str]:
    """The members that are given and have no effect, by name."""
    return [prefix + name for name, value in given.items() if name not in known and value is not None]
