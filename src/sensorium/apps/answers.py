"""Replies of models as apps read them: a refusal becomes an error, a chat's stream a text that grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from sensorium.apps.app import Task
from sensorium.errors import UpstreamFailed, UpstreamRefused
from sensorium.routing.call import Call, Dialect, Modality, Reply
from sensorium.routing.dispatch import Dispatch
from sensorium.routing.opening import retry_after
from sensorium.routing.repeat import of_reply
from sensorium.wire import sse
from sensorium.wire.failure import clean, understand

MOST_BYTES: Final = 512 * 1024 * 1024  # of a film
EVENTS: Final = "text/event-stream"
DONE: Final = b"[DONE]"


@dataclass(slots=True)
class Said:
    """What a chat model has said so far: its text, how many pieces it came in, and at the end its counts and seconds."""

    text: str = ""
    pieces: int = 0
    reason: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)


def asking(
    task: Task, model: str, modality: Modality, dialects: tuple[Dialect, ...], operation: str, given: Mapping[str, Any], **more: Any
) -> Call:
    """A call for a task. Members that are None are left out."""
    members = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in given.items() if value is not None}
    return Call(task.id, model, modality, dialects, operation, members, caller=task.caller, **more)


async def answered(dispatch: Dispatch, call: Call) -> Reply:
    """The reply to a call, its body still arriving. Raises what a dispatch raises, and UpstreamRefused for an engine's own refusal."""
    reply = await dispatch(call)
    if reply.status == 200:
        return reply
    body = await reply.whole()
    failure, source = understand(reply.status, body), reply.route.provider.name
    error = UpstreamRefused(
        _words(body) or failure.message or f"{source} answered {reply.status}",
        status=reply.status,
        code=failure.code or "upstream_rejected_request",
        source=source,
        param=failure.param,
        retry_after=retry_after(reply),
    )
    error.retryable, error.cause = failure.kind != "semantic", of_reply(reply)
    raise error


async def decoded(reply: Reply) -> dict[str, Any]:
    """The JSON object of a whole reply. Raises UpstreamFailed when it is none."""
    body = await reply.whole(MOST_BYTES)
    found = await asyncio.to_thread(_object, body)
    if found is None:
        raise UpstreamFailed(f"{reply.route.provider.name} answered with something that is not a JSON object")
    return found


async def growing(reply: Reply) -> AsyncGenerator[Said, None]:
    """What a chat reply says, once more after each piece of text, and at its end. The reply is closed in any case.

    Raises UpstreamFailed for a stream that ends in the middle, and what reading raises.
    """
    said = Said()
    try:
        if not reply.headers.get("content-type", "").startswith(EVENTS):
            _take(said, await decoded(reply), "message")
            yield said
            return
        ended, frames = False, sse.Frames()
        async for chunk in reply.chunks:
            before = said.pieces
            for payload in frames.feed(chunk):
                ended = ended or payload == DONE
                _take(said, _object(payload) or {}, "delta")
            if said.pieces > before:
                yield said
        if not ended and said.reason is None:
            error = UpstreamFailed(f"{reply.route.provider.name} broke off its answer")
            error.cause = "server_error"
            raise error
        yield said
    finally:
        await reply.close()


def count(given: Any) -> int:
    """A number of a reply's usage; 0 where it says none."""
    return given if isinstance(given, int) and not isinstance(given, bool) and given >= 0 else 0


def seconds(given: Any) -> float:
    """A number of a reply's timings; 0 where it says none."""
    return float(given) if isinstance(given, int | float) and 0 <= given < 1e9 else 0.0


def _words(body: bytes) -> str:
    """The message of an engine's error, without its code."""
    told = (_object(body) or {}).get("error")
    words = told.get("message") if isinstance(told, dict) else None
    return clean(words) if isinstance(words, str) else ""


def _take(said: Said, frame: Mapping[str, Any], inside: str) -> None:
    choices = frame.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    told = choice.get(inside)
    text = told.get("content") if isinstance(told, dict) else None
    if isinstance(text, str) and text:
        said.text += text
        said.pieces += 1
    reason = choice.get("finish_reason")
    said.reason = reason if isinstance(reason, str) else said.reason
    if isinstance(frame.get("usage"), dict):
        said.usage = frame["usage"]
    if isinstance(frame.get("timings"), dict):
        said.timings = frame["timings"]


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
