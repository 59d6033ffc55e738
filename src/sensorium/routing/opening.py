"""The beginning of a reply, looked at before anything of it goes on: an error is understood, a stream has its first event, a picture,
sound or video is not empty, and of anything else the first byte is there.

What was read is put back in front, so that the reply that goes on is the one that came, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec

from sensorium.errors import UpstreamFailed
from sensorium.routing.call import Call, Reply
from sensorium.wire import anthropic, emptiness
from sensorium.wire.failure import Failure, understand

ERROR_BODY = 64 * 1024  # bytes of an error that are read
FIRST_EVENT = 1024 * 1024  # bytes in which a stream must have begun its first event
FIRST_MEDIA = 1024 * 1024  # bytes in which a picture or video inside JSON must have begun; what is longer is passed on as it is
SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
EMPTY = "empty_result"
IDENTITY = ("x-upstream-request-id", "nvcf-", "x-ratelimit-", "ratelimit", "anthropic-ratelimit-")
NO_SOUND = ("application/json", "text/html")  # what a caller saves as speech.wav must not be one of these


async def opened(call: Call, reply: Reply) -> tuple[Reply, Failure | None]:
    """The reply, and the failure that it tells, if it does: an error, or a good status without a result (code `empty_result`).

    A failed reply's connection is closed. Raises UpstreamFailed for a stream that ends before its first event, and
    whatever reading raises; the reply is closed then.
    """
    try:
        if reply.status >= 400:
            body = await _beginning(reply, ERROR_BODY)
            await reply.close()
            return replace(reply, chunks=_whole(body)), understand(reply.status, body)
        if reply.status == 200 and reply.headers.get("content-type", "").startswith("text/event-stream"):
            return await _first_event(reply)
        if reply.status == 200 and call.method != "GET" and reply.route.modality in ("image", "video"):
            return await _media(reply)
        return await _first_byte(reply, sound=reply.status == 200 and call.method != "GET" and reply.route.modality == "speech")
    except BaseException:
        await reply.close()
        raise


def retry_after(reply: Reply) -> float | None:
    """Seconds of a Retry-After header; its date form, which no model service sends, counts as absent."""
    text = reply.headers.get("retry-after", "")
    return float(text) if SECONDS.fullmatch(text) else None


def identity(reply: Reply) -> dict[str, str]:
    """The headers of an error that its provider's support asks for, and those that tell its limits."""
    return {name: text for name, text in reply.headers.items() if name.startswith(IDENTITY)}


async def _first_byte(reply: Reply, sound: bool) -> tuple[Reply, Failure | None]:
    media = reply.headers.get("content-type", "")
    if sound and media.startswith(NO_SOUND):
        return await _empty(reply, f"it answered {media} instead of audio")
    chunks, held = reply.chunks.__aiter__(), b""
    async for held in chunks:
        if held:
            break
    if sound and not held:
        return await _empty(reply, "it answered without audio")
    return replace(reply, chunks=_again(held, chunks)), None


async def _media(reply: Reply) -> tuple[Reply, Failure | None]:
    """JSON is read until media begins in it, or to its end; anything else has only to be there."""
    chunks, held = reply.chunks.__aiter__(), bytearray()
    async for chunk in chunks:
        searched = len(held)
        held += chunk
        start = bytes(held[:64]).lstrip()[:1]
        if (start and start not in (b"{", b"[")) or len(held) > FIRST_MEDIA or emptiness.embedded(held, searched):
            break
    else:
        if emptiness.is_empty(held):
            return await _empty(reply, f"it answered without a {'picture' if reply.route.modality == 'image' else 'video'}")
    return replace(reply, chunks=_again(bytes(held), chunks)), None


async def _empty(reply: Reply, said: str) -> tuple[Reply, Failure]:
    await reply.close()
    return reply, Failure("provider_outage", 502, said, EMPTY)


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
    if held:
        yield held
    async for chunk in chunks:
        yield chunk
