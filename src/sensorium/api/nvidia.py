"""NVIDIA's genai door: POST /v1/genai/<org>/<model>. The body goes on as it came, once the model's rules allow it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec

from sensorium.api.visit import Visit, origin
from sensorium.errors import InvalidModel, UpstreamFailed
from sensorium.exchange import PIECE
from sensorium.routing.call import ANY_MODEL, Call, Reply
from sensorium.routing.catalog import RETIRED
from sensorium.routing.dispatch import Dispatch
from sensorium.routing.origin import without_context
from sensorium.wire import answers, jsonbody, nvidia, nvidia_models, openai, paths, picture

EVENTS = "text/event-stream"
ARTIFACT_TYPE, FILTERED = "x-sensorium-artifact-type", "x-sensorium-filtered"
LOOKED_AT = 16 * 1024 * 1024


class GenaiDoor:
    """The handler below /v1/genai/."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    async def draw(self, visit: Visit) -> None:
        """Relay a genai call. With `Accept: image/png` or `image/jpeg` the answer is the picture itself, in that format; with
        `text/event-stream` an engine on this machine tells every step before its answer.

        Raises Unprocessable for what the model's own rules forbid, before anything is sent.
        """
        if visit.params[0] == ANY_MODEL:
            raise InvalidModel("name the model in the path: /v1/genai/<org>/<model>", param="model")
        model = openai.checked_name(paths.checked(visit.params[0], visit.raw_path))
        routes = self._dispatch.catalog.named(model, "image")
        found = without_context(jsonbody.members(await visit.whole_body()))
        if model not in RETIRED or any(route.id == model for route in self._dispatch.catalog.routes):
            nvidia_models.check(model, found)  # else the provider says that it is gone, rather than this hub how to call it
        accept = visit.header("accept").split(";")[0].strip().lower()
        if accept == "image/png" and routes[0].provider.local:
            found = {"output_format": msgspec.Raw(b'"png"')} | found  # drawn here: no need to go through a lossy JPEG
        stepwise = accept == EVENTS and all(route.dialect == "genai" and route.provider.local for route in routes)
        reply = await self._dispatch(
            Call(visit.request_id, model, "image", ("genai", "fal"), model, found, stream=stepwise, caller=visit.caller)
        )
        if reply.status != 200 or stepwise:
            await visit.relay(reply)
        elif accept in picture.FORMATS:
            await _answer_picture(visit, reply, accept)
        else:
            await _relay_described(visit, reply)


async def _answer_picture(visit: Visit, reply: Reply, media: str) -> None:
    provider = reply.route.provider.name
    try:
        raw = base64.b64decode(nvidia.drawn(await reply.whole(), provider), validate=True)
    except ValueError:
        raise UpstreamFailed(f"{provider} answered with a picture whose base64 is damaged") from None
    converted = await asyncio.to_thread(picture.convert, raw, media)
    await visit.answer(converted, {"content-type": media, **origin(reply)})


async def _relay_described(visit: Visit, reply: Reply) -> None:
    # What a reply says about its picture goes into headers, so JSON of any usual size is read before they leave. Its bytes stay.
    chunks = reply.chunks.__aiter__()
    start, whole = bytearray(), True
    try:
        async for chunk in chunks:
            start += chunk
            if len(start) > LOOKED_AT or bytes(start[:64]).lstrip()[:1] not in (b"{", b""):
                whole = False
                break
    except BaseException:
        await reply.close()
        raise

    async def again() -> AsyncIterator[bytes]:
        for at in range(0, len(start), PIECE):
            yield bytes(start[at : at + PIECE])
        async for chunk in chunks:
            yield chunk

    said = _described(nvidia.artifact(start))
    if whole and not said and answers.flaw("image", reply.headers.get("content-type", ""), start, True):
        await reply.close()
        raise UpstreamFailed(f"{reply.route.provider.name} answered with something that is not JSON")
    await visit.relay(replace(reply, chunks=again()), said)


def _described(found: nvidia.Artifact) -> dict[str, str]:
    said = {ARTIFACT_TYPE: found.media_type} if found.media_type else {}
    return said | ({FILTERED: "1"} if found.filtered else {})
