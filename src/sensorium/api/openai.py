"""The OpenAI door: chat, embeddings, rerank, pictures, and the model list. Bodies are relayed; only the model name is replaced."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from sensorium.api.visit import Visit, origin
from sensorium.routing import pictures
from sensorium.routing.call import ANY_MODEL, Call, Modality
from sensorium.routing.dispatch import Dispatch
from sensorium.wire import edits, jsonbody, multipart, openai, parameters, retrieval
from sensorium.wire.jsonbody import Members


class OpenAIDoor:
    """Handlers below /v1/."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

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
        """Draw pictures: relayed where the model speaks OpenAI, else translated to genai."""
        found = jsonbody.members(await visit.whole_body())
        call = replace(_call(visit, found, "image", pictures.GENERATIONS), dialects=("openai", "genai", "fal"))
        await self._relay(visit, replace(call, stream=jsonbody.flag(found, "stream")))

    async def edits(self, visit: Visit) -> None:
        """Edit pictures, from a form or from JSON. `*` takes a model that is known to edit; whoever names one is answered by it."""
        body, media = await visit.whole_body(), visit.header("content-type")
        form = tuple(multipart.parse(body, media)) if multipart.is_form(media) else None
        if form is None:
            found = jsonbody.members(body)
            edits.check_members(found)
            call = replace(_call(visit, found, "image", pictures.EDITS), stream=jsonbody.flag(found, "stream"))
        else:
            edits.check_form(form)
            model = openai.checked_name(multipart.field(form, "model") or ANY_MODEL)
            stream = multipart.field(form, "stream") == "true"
            call = replace(_call(visit, {}, "image", pictures.EDITS), model=model, form=form, stream=stream)
        needs = frozenset({"edit"}) if call.model == ANY_MODEL else frozenset[str]()
        await self._relay(visit, replace(call, dialects=("openai", "genai"), needs=needs))

    async def _relay(self, visit: Visit, call: Call) -> None:
        """Relay with the caller's query string, less what looks like a credential: the only key a provider gets is its own."""
        query, dropped = openai.query(visit.query)
        call = replace(call, changes=(f"query {parameters.listed(dropped)} dropped",)) if dropped else call
        await visit.relay(await self._dispatch(replace(call, operation=f"{call.operation}?{query}") if query else call))

    async def models(self, visit: Visit) -> None:
        """Every model, what it can do, and whether it stands in for another."""
        await visit.answer(openai.model_list(self._dispatch.catalog.entries()))

    async def model(self, visit: Visit) -> None:
        """One model of the list. Raises UnknownModel."""
        name = openai.checked_name(visit.params[0])
        await visit.answer(msgspec.json.encode(self._dispatch.catalog.entry(name)))


def _call(visit: Visit, found: Members, modality: Modality, operation: str) -> Call:
    return Call(visit.request_id, openai.model_name(found), modality, ("openai",), operation, found, caller=visit.caller)
