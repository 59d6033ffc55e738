"""The OpenAI door: chat, embeddings, rerank, pictures, and the model list. Bodies are relayed; only the model name is replaced."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import msgspec

from sensorium.api.visit import Visit, origin
from sensorium.errors import SensoriumError, Unavailable
from sensorium.routing.call import ANY_MODEL, Call, Modality, Route
from sensorium.routing.dispatch import Dispatch
from sensorium.routing.plan import plan
from sensorium.wire import jsonbody, nvidia, nvidia_models, openai, parameters, retrieval, translate
from sensorium.wire.jsonbody import Members

DEFAULT_SIZE = "1024x1024"  # OpenAI's, for callers who name neither model nor size
LOCAL_FORMATS = ("png", "jpeg")


class OpenAIDoor:
    """Handlers below /v1/. `now` is the time in seconds since the epoch."""

    def __init__(self, dispatch: Dispatch, now: Callable[[], float]) -> None:
        self._dispatch = dispatch
        self._now = now

    async def chat(self, visit: Visit) -> None:
        """Relay a chat call to a model that can see what it contains."""
        found = jsonbody.members(await visit.whole_body())
        call = replace(
            _call(visit, found, "chat", "chat/completions"),
            dialects=("openai", "fal"),
            needs=openai.chat_needs(found),
            stream=jsonbody.flag(found, "stream"),
        )
        await self._relay(visit, call)

    async def completions(self, visit: Visit) -> None:
        """Relay a call of the older completions protocol."""
        found = jsonbody.members(await visit.whole_body())
        call = _call(visit, found, "chat", "completions")
        await self._relay(visit, replace(call, needs=frozenset({"text"}), stream=jsonbody.flag(found, "stream"), optional=True))

    async def responses(self, visit: Visit) -> None:
        """Relay a call of the Responses protocol to a model that can see what it contains."""
        found = jsonbody.members(await visit.whole_body())
        call = _call(visit, found, "chat", "responses")
        await self._relay(visit, replace(call, needs=openai.response_needs(found), stream=jsonbody.flag(found, "stream"), optional=True))

    async def embeddings(self, visit: Visit) -> None:
        """Relay an embeddings call."""
        found = jsonbody.members(await visit.whole_body())
        await self._relay(visit, replace(_call(visit, found, "embed", "embeddings"), dialects=("openai", "nvidia")))

    async def rerank(self, visit: Visit) -> None:
        """Order documents by a query: relayed where the model speaks this protocol, else translated to NVIDIA's and back."""
        found = jsonbody.members(await visit.whole_body())
        retrieval.top(found)
        retrieval.documents(found)
        reply = await self._dispatch(replace(_call(visit, found, "rerank", "rerank"), dialects=("openai", "nvidia")))
        if reply.route.dialect == "openai" or reply.status != 200:
            await visit.relay(reply)
            return
        body, provider = await reply.whole(), reply.route.provider.name
        await visit.answer(retrieval.ranked(body, found, reply.route.answers, visit.request_id, provider), origin(reply))

    async def images(self, visit: Visit) -> None:
        """Draw pictures: relayed where the model speaks OpenAI, else translated to genai, one call per picture."""
        found = jsonbody.members(await visit.whole_body())
        asked = replace(_call(visit, found, "image", "images/generations"), dialects=("openai", "genai", "fal"))
        failure: SensoriumError = Unavailable("no route")
        for route in plan(asked, self._dispatch.catalog):
            call = replace(asked, model=route.id, dialects=("openai",) if route.dialect == "openai" else ("genai", "fal"))
            try:
                if route.dialect == "openai":
                    await self._relay(visit, call)
                else:
                    await self._draw(visit, call, route, DEFAULT_SIZE if asked.model == ANY_MODEL else None)
                return
            except SensoriumError as error:
                if visit.status or not error.retryable:
                    raise
                failure = error
        raise failure

    async def _relay(self, visit: Visit, call: Call) -> None:
        """Relay with the caller's query string, less what looks like a credential: the only key a provider gets is its own."""
        query, dropped = openai.query(visit.query)
        call = replace(call, changes=(f"query {parameters.listed(dropped)} dropped",)) if dropped else call
        await visit.relay(await self._dispatch(replace(call, operation=f"{call.operation}?{query}") if query else call))

    async def _draw(self, visit: Visit, call: Call, route: Route, size: str | None) -> None:
        formats = LOCAL_FORMATS if route.provider.local else ()
        seed = secrets.randbelow(nvidia_models.SEED.high) + 1
        asked = translate.images_to_genai(call.members, route.id, seed, size=size, formats=formats)
        pictures: list[str] = []
        said: dict[str, str] = {}
        for members in asked.bodies:
            nvidia_models.check(route.id, {name: raw for name, raw in members.items() if name != "output_format"})
            reply = await self._dispatch(replace(call, members=members, changes=asked.changes))
            said = origin(reply)
            if reply.status != 200:
                kept = {name: text for name, text in reply.headers.items() if name == "retry-after"}
                error = translate.genai_error(await reply.whole(), reply.status, visit.request_id)
                await visit.answer(error, said | kept, reply.status)
                return
            pictures.append(nvidia.drawn(await reply.whole(), reply.route.provider.name))
        await visit.answer(translate.images_reply(pictures, int(self._now())), said)

    async def models(self, visit: Visit) -> None:
        """Every model, what it can do, and whether it stands in for another."""
        await visit.answer(openai.model_list(self._dispatch.catalog.entries()))

    async def model(self, visit: Visit) -> None:
        """One model of the list. Raises UnknownModel."""
        name = openai.checked_name(visit.params[0])
        await visit.answer(msgspec.json.encode(self._dispatch.catalog.entry(name)))


def _call(visit: Visit, found: Members, modality: Modality, operation: str) -> Call:
    return Call(visit.request_id, openai.model_name(found), modality, ("openai",), operation, found, caller=visit.caller)
