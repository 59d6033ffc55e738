"""The media door: POST /v1/media/{op}, one small body for every provider. An operation is a call of another door, and its reply read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from sensorium.api.audio import AudioDoor
from sensorium.api.video import MOST_BYTES, answered, submitted, video_call
from sensorium.api.videos import STATUS, request_id
from sensorium.api.visit import MODEL, SOURCE, Visit, origin
from sensorium.errors import NotConfigured, NotFound
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.request import Request, State
from sensorium.routing import pictures
from sensorium.routing.call import Call, Modality, Reply
from sensorium.routing.dispatch import Dispatch
from sensorium.routing.origin import without_context
from sensorium.wire import films, jsonbody, media, openai
from sensorium.wire.jsonbody import Members
from sensorium.wire.openai_videos import PREFIX

VISION: Final = frozenset({"vision"})
MUSIC: Final = "audio.music"
ASYNC: Final = "respond-async"  # of the header Prefer (RFC 7240): answer at once with a job
Made = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """What serves an operation: routes of a modality with some capabilities. `setting` adds one; `work` does it."""

    modality: Modality
    setting: str
    work: Callable[[Visit, Members, str], Awaitable[None]]
    needs: frozenset[str] = frozenset()


class MediaDoor:
    """The handler below /v1/media/."""

    def __init__(self, dispatch: Dispatch, audio: AudioDoor, jobs: Jobs) -> None:
        self._dispatch, self._audio, self._jobs = dispatch, audio, jobs
        self._operations = {
            "image.generate": Operation("image", "router.image (URL + key)", self._generate),
            "image.understand": Operation("chat", "router.chat (URL + key) and a model with vision = true", self._understand, VISION),
            "audio.tts": Operation("speech", "router.audio (URL + key)", self._speak),
            "audio.asr": Operation("transcribe", "router.audio (URL + key)", self._hear),
            "video.generate": Operation("video", "router.video (URL + key)", self._film),
        }

    async def call(self, visit: Visit) -> None:
        """One operation. Raises NotFound for an unknown one, NotConfigured when nobody serves it, and what its call raises."""
        op = visit.params[0]
        operation = self._operations.get(op)
        if op == MUSIC:
            raise NotConfigured(f"{op} is not configured on this hub, and cannot be yet: it needs a provider that makes music, such as fal")
        if operation is None:
            raise NotFound(f"there is no media operation {op[:80]!r}", hint=f"there are {', '.join([*self._operations, MUSIC])}")
        routes = self._dispatch.catalog.routes
        if not any(route.modality == operation.modality and operation.needs <= route.capabilities for route in routes):
            raise NotConfigured(f"{op} is not configured on this hub: set {operation.setting}")
        found = media.read(op, without_context(jsonbody.members(await visit.whole_body())))
        await operation.work(visit, found, openai.model_name(found))

    async def _generate(self, visit: Visit, found: Members, model: str) -> None:
        members = media.drawing(found)
        call = Call(visit.request_id, model, "image", ("openai", "genai", "fal"), pictures.GENERATIONS, members, caller=visit.caller)
        reply = await self._dispatch(replace(call, extensions=media.EXTENSIONS))
        if (body := await _whole(visit, reply)) is None:
            return
        made = media.pictures(body, reply.route.provider.name)
        asked = int(jsonbody.value(found, "n") or 1)
        said = {"short": f"{len(made)} of {asked}: {_why(reply)}"} if len(made) < asked else {}
        await _answer(visit, reply, {"artifacts": made, **said})

    async def _understand(self, visit: Visit, found: Members, model: str) -> None:
        members = media.question(found)
        call = Call(visit.request_id, model, "chat", ("openai", "fal"), "chat/completions", members, needs=VISION, caller=visit.caller)
        reply = await self._dispatch(call)
        if (body := await _whole(visit, reply)) is not None:
            await _answer(visit, reply, {"text": media.answered(body, reply.route.provider.name)})

    async def _speak(self, visit: Visit, found: Members, model: str) -> None:
        call = Call(visit.request_id, model, "speech", ("nvidia", "openai"), "audio/speech", media.spoken(found), caller=visit.caller)
        reply = await self._audio.spoken(visit, replace(call, extensions=media.EXTENSIONS))
        if (body := await _whole(visit, reply)) is not None:
            await _answer(visit, reply, {"artifacts": [media.sound(body, reply.headers)]})

    async def _hear(self, visit: Visit, found: Members, model: str) -> None:
        operation, form = "audio/transcriptions", media.heard(found)
        call = Call(visit.request_id, model, "transcribe", ("nvidia", "openai"), operation, {}, caller=visit.caller, form=form)
        reply = await self._dispatch(await self._audio.readable(call))
        if (body := await _whole(visit, reply)) is not None:
            await _answer(visit, reply, {"text": media.transcript(body, reply.route.provider.name)})

    async def job(self, visit: Visit) -> None:
        """GET /v1/media/jobs/ID: how far a video is, and the video itself once it is there. Raises UnknownRequest."""
        request = await self._jobs.of(visit.caller, request_id(visit.params[0]))
        if request.state is State.SUCCEEDED:
            await self._show(visit, request, {"job_id": visit.params[0], "status": STATUS[request.state]})
            return
        error = {"error": {name: request.told[name] for name in ("code", "message")}} if request.done else {}
        await visit.answer(msgspec.json.encode({"job_id": visit.params[0], "status": STATUS[request.state], **error}))

    async def _film(self, visit: Visit, found: Members, model: str) -> None:
        call = video_call(visit, self._dispatch, model, media.film(found), films.OPERATION)
        request = await submitted(self._jobs, self._dispatch, call)
        if ASYNC in visit.header("prefer").lower():
            told = {"job_id": f"{PREFIX}{request.id}", "status": STATUS[request.state]}
            await visit.answer(msgspec.json.encode(told), {"preference-applied": ASYNC}, 202)
            return
        await self._show(visit, await self._jobs.ended(request), {})

    async def _show(self, visit: Visit, request: Request, told: Made) -> None:
        body, said = await answered(self._jobs, request)
        made = await asyncio.to_thread(media.clip, body, said[SOURCE])
        await visit.answer(msgspec.json.encode({**told, "artifacts": [made], "provider": said[SOURCE], "model": said.get(MODEL)}), said)


async def _whole(visit: Visit, reply: Reply) -> bytes | None:
    """The body of a good reply; None when it was a refusal, which is relayed."""
    if reply.status == 200:
        return await reply.whole(MOST_BYTES)
    await visit.relay(reply)
    return None


async def _answer(visit: Visit, reply: Reply, made: Made) -> None:
    model = None if reply.route.open else reply.route.answers  # an open route of a service that has but one model
    body = msgspec.json.encode({**made, "provider": reply.route.provider.name, "model": model})
    await visit.answer(body, origin(reply))


def _why(reply: Reply) -> str:
    """Why there are fewer pictures than asked for, as far as it is known."""
    return next((change for change in reply.changes if change.startswith("n ")), f"{reply.route.provider.name} gave no more")
