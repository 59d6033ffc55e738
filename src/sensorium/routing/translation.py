"""A reply in the words of its caller, where route and caller speak different protocols. `payload` translates the call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from sensorium.errors import UpstreamFailed
from sensorium.exchange import JSON
from sensorium.routing.call import Call, Reply
from sensorium.routing.payload import translated
from sensorium.wire import anthropic, anthropic_chat, anthropic_reply
from sensorium.wire.failure import understand

EVENTS = "text/event-stream"


async def translation(call: Call, reply: Reply) -> Reply:
    """The reply itself unless it has to be translated; a stream event by event, as it arrives.

    Raises UpstreamFailed when it is not what was asked for; it is closed then.
    """
    if not translated(call, reply.route) or 300 <= reply.status < 400:
        return reply
    if reply.status >= 400:
        said = understand(reply.status, await reply.whole())
        return _whole(reply, anthropic.refusal(reply.status, said.message, said.code, call.id))
    asked = anthropic_reply.Asked(
        f"msg_{call.id}",
        reply.route.answers,
        reply.route.provider.name,
        anthropic_chat.stop_sequences(call.members),
        anthropic_chat.thinks_aloud(call.members),
    )
    if not call.stream:
        return _whole(reply, anthropic_reply.message(await reply.whole(), asked))
    if not reply.headers.get("content-type", "").startswith(EVENTS):
        await reply.close()
        raise UpstreamFailed(f"{reply.route.provider.name} was asked for a stream and answered something else")
    return replace(reply, headers=_kept(reply) | {"content-type": f"{EVENTS}; charset=utf-8"}, chunks=_events(reply, asked))


async def _events(reply: Reply, asked: anthropic_reply.Asked) -> AsyncIterator[bytes]:
    events = anthropic_reply.Events(asked)
    async for chunk in reply.chunks:
        for event in events.feed(chunk):
            yield event
    for event in events.end():
        yield event


def _whole(reply: Reply, body: bytes) -> Reply:
    """An answer of the same status and origin, read already."""

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    async def close() -> None:
        """Nothing is open."""

    said = {"content-type": JSON, "content-length": str(len(body))}
    return replace(reply, headers=_kept(reply) | said, chunks=chunks(), close=close)


def _kept(reply: Reply) -> dict[str, str]:
    return {name: text for name, text in reply.headers.items() if not name.startswith("content-")}
