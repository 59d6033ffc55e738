"""The beginning of a reply, looked at before anything of it goes on: an error is understood, a stream has its first event.

What was read is put back in front, so that the reply that goes on is the one that came, byte for byte.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec

from sensorium.errors import UpstreamFailed
from sensorium.routing.call import Reply
from sensorium.wire import anthropic
from sensorium.wire.failure import Failure, understand

ERROR_BODY = 64 * 1024  # bytes of an error that are read
FIRST_EVENT = 1024 * 1024  # bytes in which a stream must have begun its first event


async def opened(reply: Reply) -> tuple[Reply, Failure | None]:
    """The reply, and the failure that it tells, if it does.

    An error is read whole and its connection closed. Raises UpstreamFailed for a stream that ends before its first event, and
    whatever reading raises; the reply is closed then.
    """
    try:
        if reply.status >= 400:
            body = await _beginning(reply, ERROR_BODY)
            await reply.close()
            return replace(reply, chunks=_whole(body)), understand(reply.status, body)
        if reply.status == 200 and reply.headers.get("content-type", "").startswith("text/event-stream"):
            return await _first_event(reply)
    except BaseException:
        await reply.close()
        raise
    return reply, None


def retry_after(reply: Reply) -> float | None:
    """Seconds of a Retry-After header; its date form, which no model service sends, counts as absent."""
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isdecimal() and len(text) < 7 else None


async def _first_event(reply: Reply) -> tuple[Reply, Failure | None]:
    chunks, held = reply.chunks.__aiter__(), b""
    async for chunk in chunks:
        held += chunk
        data = _data(held)
        if data is not None:
            failure = _error_event(data)
            if failure is not None:
                await reply.close()
            return replace(reply, chunks=_again(held, chunks)), failure
        if len(held) > FIRST_EVENT:
            return replace(reply, chunks=_again(held, chunks)), None
    raise UpstreamFailed(f"{reply.route.provider.name} ended its stream before the first event")


def _data(held: bytes) -> bytes | None:
    """The data of the first whole event, comments (keep-alives) left out; None while there is none."""
    frames = held.replace(b"\r\n", b"\n").split(b"\n\n")
    for frame in frames[:-1]:
        lines = [line[5:].strip() for line in frame.split(b"\n") if line.startswith(b"data:")]
        if lines:
            return b"\n".join(lines)
    return None


def _error_event(data: bytes) -> Failure | None:
    if b'"error"' not in data:
        return None
    try:
        told = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(told, dict) or not told.get("error") or told.get("choices"):
        return None
    status = anthropic.status_of(told) or (told["error"].get("code") if isinstance(told["error"], dict) else None)
    return understand(status if isinstance(status, int) and 400 <= status < 600 else 502, data)


async def _beginning(reply: Reply, cap: int) -> bytes:
    got = b""
    async for chunk in reply.chunks:
        got += chunk
        if len(got) >= cap:
            break
    return got[:cap]


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _again(held: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield held
    async for chunk in chunks:
        yield chunk
