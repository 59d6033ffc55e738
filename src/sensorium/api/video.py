"""The video door: POST /v1/video/<org>/<model>, a blocking call that answers with JSON, the video in `artifacts[0].base64`.

Every video is a request of the queue: a caller that hangs up finds it again in GET /v1/videos.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sensorium.api.nvidia import FILTERED
from sensorium.api.visit import Visit, origin
from sensorium.errors import InvalidModel, NotConfigured, UpstreamFailed
from sensorium.jobs.calls import asked
from sensorium.jobs.dispatcher import Jobs, failure
from sensorium.jobs.request import Request, State
from sensorium.routing.call import ANY_MODEL, Call, Dialect, Reply
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch
from sensorium.wire import jsonbody, openai, openai_videos, paths, video
from sensorium.wire.jsonbody import Members

MOST_BYTES = 512 * 1024 * 1024
JOB = "x-sensorium-job"
DIALECTS: tuple[Dialect, ...] = ("genai", "nvidia", "openai", "fal")  # the model's path below the base URL in each


class VideoDoor:
    """The handler below /v1/video/."""

    def __init__(self, jobs: Jobs, dispatch: Dispatch) -> None:
        self._jobs = jobs
        self._dispatch = dispatch

    async def draw(self, visit: Visit) -> None:
        """Make a video. The members of the model's reply stay; where the video is elsewhere in it, `artifacts` is added."""
        path = visit.params[0]
        if path == ANY_MODEL:
            raise InvalidModel("name the model in the path: /v1/video/<org>/<model>", param="model")
        model = openai.checked_name(paths.checked(path, visit.raw_path))
        check_served(self._dispatch.catalog)
        call = video_call(visit, self._dispatch, model, jsonbody.members(await visit.whole_body()))
        request = await self._jobs.ended(await submitted(self._jobs, self._dispatch, call))
        await visit.answer(*await answered(self._jobs, request))


def check_served(catalog: Catalog) -> None:
    """Raise NotConfigured, naming the setting, when nobody makes videos."""
    if not catalog.serves("video"):
        raise NotConfigured("video is not configured on this hub: set router.video (URL + key)")


def video_call(visit: Visit, dispatch: Dispatch, model: str, found: Members, operation: str | None = None) -> Call:
    """The call for a video, once it is known that somebody can answer it: `operation` of the model, or in its own words.

    Raises what `plan` raises.
    """
    call = Call(visit.request_id, model, "video", DIALECTS, operation or model, found, caller=visit.caller)
    dispatch.plan(call)
    return call


async def submitted(jobs: Jobs, dispatch: Dispatch, call: Call, remembered: Mapping[str, str] = MappingProxyType({})) -> Request:
    """The call as a request, on disk. Raises as `Jobs.submit` does."""
    request, _ = await jobs.submit(asked(call, dispatch, remembered))
    return request


async def kept(reply: Reply) -> tuple[bytes, dict[str, Any]]:
    """What is kept of a video model's reply: its JSON with the video in place, and the headers that tell of it."""
    body, provider = await reply.whole(MOST_BYTES), reply.route.provider.name
    if reply.status != 200:
        raise UpstreamFailed(f"{provider} answered {reply.status} without a video")
    placed = await asyncio.to_thread(video.placed, body, provider)
    said = {name: text for name, text in reply.headers.items() if name.startswith("nvcf-")}
    return placed, {"headers": said | origin(reply) | ({FILTERED: "1"} if video.filtered(body) else {})}


async def answered(jobs: Jobs, request: Request) -> tuple[bytes, dict[str, str]]:
    """The JSON of a video that is done, and its headers. Raises the error that it ended in, UpstreamFailed when its file is gone."""
    if request.state is not State.SUCCEEDED:
        raise failure(request)
    body = await jobs.output(request)
    if body is None:
        raise UpstreamFailed("the video is not there any more", code="result_lost")
    return body, {**request.told["headers"], JOB: f"{openai_videos.PREFIX}{request.id}"}
