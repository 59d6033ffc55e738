"""The video door: POST /v1/video/<org>/<model>, a blocking call that answers with JSON, the video in `artifacts[0].base64`."""

from __future__ import annotations

import asyncio

from sensorium.api.nvidia import FILTERED
from sensorium.api.visit import Visit, origin
from sensorium.errors import InvalidModel, NotConfigured
from sensorium.routing.call import ANY_MODEL, Call, Dialect
from sensorium.routing.dispatch import Dispatch
from sensorium.wire import jsonbody, openai, paths, video

MOST_BYTES = 512 * 1024 * 1024


class VideoDoor:
    """The handler below /v1/video/."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    async def draw(self, visit: Visit) -> None:
        """Make a video. The members of the model's reply stay; where the video is elsewhere in it, `artifacts` is added."""
        path = visit.params[0]
        if path == ANY_MODEL:
            raise InvalidModel("name the model in the path: /v1/video/<org>/<model>", param="model")
        model = openai.checked_name(paths.checked(path, visit.raw_path))
        if not self._dispatch.catalog.serves("video"):
            raise NotConfigured("video is not configured on this hub: set router.video (URL + key)")
        found = jsonbody.members(await visit.whole_body())
        dialects: tuple[Dialect, ...] = ("genai", "nvidia", "openai", "fal")  # the model's path below the base URL in each
        reply = await self._dispatch(Call(visit.request_id, model, "video", dialects, model, found, caller=visit.caller))
        if reply.status != 200:
            await visit.relay(reply)
            return
        body = await reply.whole(MOST_BYTES)
        placed = await asyncio.to_thread(video.placed, body, reply.route.provider.name)
        kept = {name: text for name, text in reply.headers.items() if name.startswith("nvcf-")}
        await visit.answer(placed, kept | origin(reply) | ({FILTERED: "1"} if video.filtered(body) else {}))
