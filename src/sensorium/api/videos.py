"""OpenAI's videos door: create one and leave, look how far it is, fetch it, list them, delete it."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Final, Literal
from urllib.parse import parse_qs

import msgspec

from sensorium.api.video import answered, check_served, submitted, video_call
from sensorium.api.visit import MODEL, Visit
from sensorium.errors import BadRequest, UpstreamFailed
from sensorium.jobs.calls import WORK
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.request import Request, State, UnknownRequest
from sensorium.routing.dispatch import Dispatch
from sensorium.wire import films, jsonbody, multipart, openai, openai_videos, video
from sensorium.wire.openai_videos import PREFIX, Told
from sensorium.wire.whole import whole

PAGE, LONGEST_PAGE = 20, 100
CONTENT: Final = "/content"
STATUS: Final[dict[State, Literal["queued", "in_progress", "completed", "failed"]]] = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.DELAYED: "queued",
    State.CANCELLED: "failed",
}


class NotReady(BadRequest):
    """The video is still being made."""

    code, status = "not_ready", 409


class VideosDoor:
    """Handlers of /v1/videos."""

    def __init__(self, jobs: Jobs, dispatch: Dispatch) -> None:
        self._jobs = jobs
        self._dispatch = dispatch

    async def create(self, visit: Visit) -> None:
        """POST /v1/videos: a form or JSON with `prompt`, `model`, `seconds`, `size`, `input_reference`, and what else the model takes."""
        check_served(self._dispatch.catalog)
        body, media = await visit.whole_body(), visit.header("content-type")
        found = openai_videos.members_of(multipart.parse(body, media)) if multipart.is_form(media) else jsonbody.members(body)
        model = openai.model_name(found)
        call = video_call(visit, self._dispatch, model, openai_videos.to_film(found), films.OPERATION)
        asked = {name: str(value) for name in ("seconds", "size") if (value := jsonbody.value(found, name)) is not None}
        request = await submitted(self._jobs, self._dispatch, call, asked)
        await visit.answer(msgspec.json.encode(_shown(request)))

    async def entries(self, visit: Visit) -> None:
        """GET /v1/videos: the caller's own, the newest first; `limit`, `after`, `order=asc`."""
        query = parse_qs(visit.query.decode("latin-1"))
        limit, order = whole(query.get("limit", [str(PAGE)])[0], 1, LONGEST_PAGE), query.get("order", ["desc"])[0]
        if limit is None or order not in ("asc", "desc"):
            raise BadRequest(f"limit is a number, 1..{LONGEST_PAGE}, and order is asc or desc", param="limit")
        after = request_id(query["after"][0]) if "after" in query else None
        found = await self._jobs.listed(visit.caller, limit + 1, after, newest_first=order == "desc", work=WORK)
        page = [_shown(request) for request in found[:limit]]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        await visit.answer(msgspec.json.encode({"object": "list", "data": page, **ends, "has_more": len(found) > len(page)}))

    async def entry(self, visit: Visit) -> None:
        """GET /v1/videos/ID, and GET /v1/videos/ID/content: the MP4 file. Raises UnknownRequest, NotReady."""
        if visit.params[0].endswith(CONTENT):
            await self._content(visit, visit.params[0].removesuffix(CONTENT))
            return
        await visit.answer(msgspec.json.encode(_shown(await self._known(visit, visit.params[0]))))

    async def remove(self, visit: Visit) -> None:
        """DELETE /v1/videos/ID: forget it; one that is still being made is given up. Raises UnknownRequest."""
        await self._jobs.remove(visit.caller, request_id(visit.params[0]))
        await visit.answer(msgspec.json.encode({"id": visit.params[0], "object": "video.deleted", "deleted": True}))

    async def _content(self, visit: Visit, name: str) -> None:
        request = await self._known(visit, name)
        if not request.done:
            raise NotReady(f"{name} is {STATUS[request.state]}", hint=f"ask GET /v1/videos/{name} until it is completed")
        body, headers = await answered(self._jobs, request)
        film = await asyncio.to_thread(video.embedded, body)
        if film is None:
            raise UpstreamFailed("the provider answered with a link instead of a video; /v1/video/<model> shows it")
        await visit.answer(base64.b64decode(film), {**headers, "content-type": video.MP4})

    async def _known(self, visit: Visit, name: str) -> Request:
        return await self._jobs.of(visit.caller, request_id(name))


def request_id(name: str) -> str:
    """The request behind a video's id. Raises UnknownRequest."""
    if not name.startswith(PREFIX):
        raise UnknownRequest(f"there is no video {name[:80]!r}; its id begins with {PREFIX}")
    return name.removeprefix(PREFIX)


def _shown(request: Request) -> dict[str, Any]:
    told, asked = request.told, request.call["asked"]
    error = {"code": told["code"], "message": told["message"]} if request.done and request.state is not State.SUCCEEDED else None
    model = told.get("headers", {}).get(MODEL, request.call["model"])
    ended = int(request.finished_at) if request.finished_at is not None else None
    times = (request.created_at, ended)
    return openai_videos.video(Told(request.id, STATUS[request.state], model, *times, asked.get("seconds"), asked.get("size"), error))
