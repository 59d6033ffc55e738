"""NVIDIA's genai door: POST /v1/genai/<org>/<model>. The body goes on as it came, once the model's rules allow it."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec

from sensorium.api.visit import Visit, origin
from sensorium.errors import InvalidModel, UpstreamFailed
from sensorium.routing.call import Call, Reply
from sensorium.routing.dispatch import Dispatch
from sensorium.wire import jsonbody, nvidia, openai, picture

ARTIFACT_TYPE = "x-sensorium-artifact-type"


class GenaiDoor:
    """The handler below /v1/genai/."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    async def draw(self, visit: Visit) -> None:
        """Relay a genai call. With `Accept: image/png` or `image/jpeg` the answer is the picture itself, in that format.

        Raises Unprocessable for what the model's own rules forbid, before anything is sent.
        """
        model = openai.checked_name(visit.params[0])
        if model == "*":
            raise InvalidModel("name the model in the path: /v1/genai/<org>/<model>", param="model")
        routes = self._dispatch.catalog.named(model)
        found = jsonbody.members(await visit.whole_body())
        nvidia.check(model, found)
        accept = visit.header("accept").split(";")[0].strip().lower()
        if accept == "image/png" and routes[0].provider.local:
            found = {"output_format": msgspec.Raw(b'"png"')} | found  # drawn here: no need to go through a lossy JPEG
        reply = await self._dispatch(Call(visit.request_id, model, "image", ("genai",), model, found, caller=visit.caller))
        if accept in picture.FORMATS and reply.status == 200:
            await _answer_picture(visit, reply, accept)
        else:
            await _relay_typed(visit, reply)


async def _answer_picture(visit: Visit, reply: Reply, media: str) -> None:
    text = nvidia.artifact(await reply.whole())
    try:
        raw = base64.b64decode(text or "", validate=True)
    except binascii.Error:
        raw = b""
    if not raw:
        raise UpstreamFailed(f"{reply.route.provider.name} answered without a picture")
    converted = await asyncio.to_thread(picture.convert, raw, media)
    await visit.answer(converted, {"content-type": media, **origin(reply)})


async def _relay_typed(visit: Visit, reply: Reply) -> None:
    # The type of the picture goes into a header, so the first bytes are looked at before the headers leave.
    chunks = reply.chunks.__aiter__()
    first = b""
    try:
        async for chunk in chunks:
            first += chunk
            if len(first) >= 512:
                break
    except BaseException:
        await reply.close()
        raise

    async def again() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    media = nvidia.picture_type(first)
    await visit.relay(replace(reply, chunks=again()), {ARTIFACT_TYPE: media} if media else {})
