"""The beginning of a reply, looked at before anything of it goes on: an error is understood, a stream has its first event, a picture or
video is not empty, and any other answer looks like what was asked for.

What was read is put back in front, so that the reply that goes on is the one that came, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec

from sensorium.errors import UpstreamFailed, UpstreamRefused
from sensorium.routing.call import Call, Reply
from sensorium.wire import answers, anthropic, emptiness
from sensorium.wire.failure import Failure, understand

ERROR_BODY = 64 * 1024  # bytes of an error that are read
END = b"[DONE]"
FIRST_EVENT = 1024 * 1024  # bytes in which a stream must have begun its first event
FIRST_MEDIA = 1024 * 1024  # bytes in which a picture or video inside JSON must have begun; what is longer is passed on as it is
SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
EMPTY = "empty_result"
IDENTITY = ("x-upstream-request-id", "nvcf-", "x-ratelimit-", "ratelimit", "anthropic-ratelimit-")


async def opened(call: Call, reply: Reply) -> tuple[Reply, Failure | None]:
    """The reply, and the failure that it tells, if it does: an error, or a good status without an answer (code `empty_result`).

    A failed reply's connection is closed. Raises UpstreamFailed for a redirect, which is never followed, for a stream whose first event is
    missing or no JSON, and whatever reading raises; the reply is closed then.
    """
    try:
        if reply.status >= 400:
            body = await _beginning(reply, ERROR_BODY)
            await reply.close()
            return replace(reply, chunks=_whole(body)), understand(reply.status, body)
        if reply.status == 200 and reply.headers.get("content-type", "").startswith("text/event-stream"):
            return await _first_event(reply)
        if 300 <= reply.status < 400:
            name = reply.route.provider.name
            raise UpstreamFailed(f"{name} redirects ({reply.status}), which is not followed; write the final address into the settings")
        if reply.status != 200 or "content-encoding" in reply.headers:
            return await _first_byte(reply)
        modality = reply.route.modality if call.method != "GET" else ""  # a list of a speech service is no speech
        return await (_media(reply, modality) if modality in ("image", "video") else _likely(reply, modality))
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


async def _first_byte(reply: Reply) -> tuple[Reply, Failure | None]:
    chunks, held = reply.chunks.__aiter__(), b""
    async for held in chunks:
        if held:
            break
    return replace(reply, chunks=_again(held, chunks)), None


async def _likely(reply: Reply, modality: str) -> tuple[Reply, Failure | None]:
    """The reply, once its beginning looks like an answer; JSON of usual size is read to its end."""
    media = reply.headers.get("content-type", "")
    most = answers.looked_at(modality, media)
    chunks, held, ended = reply.chunks.__aiter__(), b"", True
    async for chunk in chunks:
        held += chunk
        if len(held) >= most:
            ended = False
            break
    return await _judged(replace(reply, chunks=_again(held, chunks)), answers.flaw(modality, media, held, ended))


async def _media(reply: Reply, modality: str) -> tuple[Reply, Failure | None]:
    """JSON is read until media begins in it, or to its end; of anything else a few bytes have to be there."""
    media = reply.headers.get("content-type", "")
    chunks, held, ended = reply.chunks.__aiter__(), bytearray(), True
    async for chunk in chunks:
        searched = len(held)
        held += chunk
        start = bytes(held[:64]).lstrip()[:1]
        other = len(held) >= answers.FILE_START and start not in (b"{", b"[", b"")
        if other or len(held) > FIRST_MEDIA or emptiness.embedded(held, searched):
            ended = False
            break
    flaw = answers.flaw(modality, media, held, ended)
    if flaw is None and ended and emptiness.is_empty(held):
        flaw = f"no {'picture' if modality == 'image' else 'video'}"
    return await _judged(replace(reply, chunks=_again(bytes(held), chunks)), flaw)


async def _judged(reply: Reply, flaw: str | None) -> tuple[Reply, Failure | None]:
    if flaw is None:
        return reply, None
    await reply.close()
    return reply, Failure("provider_outage", 502, f"it answered with {flaw}", EMPTY)


async def _first_event(reply: Reply) -> tuple[Reply, Failure | None]:
    chunks, held = reply.chunks.__aiter__(), b""
    async for chunk in chunks:
        held += chunk
        data = _data(held)
        if data is not None:
            if data != END and not answers.parses(data):
                raise UpstreamFailed(f"{reply.route.provider.name} began its stream with an event that is not JSON")
            failure = _error_event(data)
            if failure is not None:
                await reply.close()
            return replace(reply, chunks=_watched(_again(held, chunks), reply.route.provider.name)), failure
        if len(held) > FIRST_EVENT:
            return replace(reply, chunks=_again(held, chunks)), None
    error = UpstreamFailed(f"{reply.route.provider.name} ended its stream before the first event")
    error.cause = "server_error"
    raise error


async def _watched(chunks: AsyncIterator[bytes], name: str) -> AsyncIterator[bytes]:
    """The stream up to an error event in its middle, which is raised as UpstreamRefused: cleaned, and a failure for the record."""
    rest = b""  # of an event whose end has not come
    async for chunk in chunks:
        text = rest + chunk
        mark = b"\r\n\r\n" if b"\r\n\r\n" in text else b"\n\n"
        if b'"error"' in text:
            before = 0
            for frame in text.split(mark)[:-1]:
                failure = _error_event(_data(frame + b"\n\n") or b"")
                if failure is not None:
                    yield chunk[: max(0, before - len(rest))]
                    said = f"{name} broke off its answer: {failure.message or 'without a reason'}"
                    raise UpstreamRefused(said, status=failure.status, code=UpstreamFailed.code, source=name)
                before += len(frame) + len(mark)
        yield chunk
        rest = text.rpartition(mark)[2][-ERROR_BODY:]


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
