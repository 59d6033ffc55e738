"""How a reply's usage is read and asked for: which reading fits which call, and token counts on streams whose caller did not ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from sensorium.errors import SensoriumError
from sensorium.exchange import JSON
from sensorium.routing.call import Call, Reply, Route
from sensorium.wire import jsonbody, multipart
from sensorium.wire.jsonbody import Members
from sensorium.wire.usage import UNKNOWN, WAV_HEADER, EventStream, Pictures, Reading, Usage, Wave, WholeReply, wave_seconds

COUNTED = ("chat", "embed", "rerank", "transcribe")
STREAM_OPTIONS = "stream_options"


def counting(call: Call, route: Route) -> dict[str, Any]:
    """The body's `stream_options` with token counts asked for; empty where the caller asked already or they cannot be had.

    Only chat streams have them for certain. What is no object stays as it is: to refuse it is the provider's part.
    """
    if not (call.stream and route.modality == "chat" and route.provider.stream_usage and _operation(call) == "chat/completions"):
        return {}
    given = jsonbody.value(call.members, STREAM_OPTIONS)
    if (given is not None and not isinstance(given, dict)) or (given or {}).get("include_usage") is True:
        return {}
    return {STREAM_OPTIONS: {**(given or {}), "include_usage": True}}


def metered(reply: Reply, call: Call, *, hide: bool) -> Reply:
    """The reply with its usage read while it passes. With `hide` the counts that only the hub asked for do not go on."""
    reading = _reading(reply, call, hide)
    if reading is None:
        return reply

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in reply.chunks:
            passed = reading.passed(chunk)
            if passed:
                yield passed
        rest = reading.rest()
        if rest:
            yield rest

    kept = {name: text for name, text in reply.headers.items() if not (hide and name == "content-length")}
    return replace(reply, headers=kept, chunks=chunks(), usage=lambda: reading.usage)


def asked(call: Call) -> Usage:
    """What the call itself tells of its usage: characters to be spoken, seconds to be heard."""
    try:
        if call.modality == "speech":
            text = _text(call)
            return Usage(characters=len(text) if text else None)
        file = next((part for part in call.form or () if part.name == "file"), None)
        if call.modality == "transcribe" and file is not None:
            return Usage(seconds=wave_seconds(bytes(file.data[:WAV_HEADER]), len(file.data)))
    except SensoriumError:
        pass  # a text that is none: the provider refuses it
    return UNKNOWN


def _text(call: Call) -> str | None:
    if call.form is not None:
        return multipart.field(call.form, "text")
    members: Members = call.members
    return jsonbody.text(members, "text") or jsonbody.text(members, "input")


def _reading(reply: Reply, call: Call, hide: bool) -> Reading | None:
    media = reply.headers.get("content-type", "")
    if reply.status != 200 or reply.headers.get("content-encoding", "identity") != "identity":
        return None
    if media.startswith("text/event-stream"):
        return EventStream(hide)
    if media.startswith(JSON):
        return WholeReply() if call.modality in COUNTED else Pictures() if call.modality == "image" else None
    return Wave() if media.startswith(("audio/wav", "audio/x-wav")) else None


def _operation(call: Call) -> str:
    return call.operation.partition("?")[0]
