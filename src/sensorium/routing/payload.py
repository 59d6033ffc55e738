"""What a route is sent for a call: address, body and what differs from the caller's body. Pure; relayed unless the dialects differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlsplit

from sensorium.exchange import JSON
from sensorium.routing.call import Call, Modality, Provider, Route
from sensorium.routing.metering import counting
from sensorium.wire import anthropic_chat, fal, films, jsonbody, multipart, nvidia_models, parameters, retrieval, speech
from sensorium.wire.jsonbody import Members
from sensorium.wire.multipart import Part
from sensorium.wire.speech import Form

MESSAGES: Final = "messages"  # the operation of Anthropic's protocol that is a chat call in OpenAI's
# what a host calls the most tokens of an answer, where it refuses `max_tokens` for some of its models
LIMITS: Final = {"api.openai.com": "max_completion_tokens"}
_APPS: Final[dict[Modality, Callable[[Members], fal.Input]]] = {"chat": fal.asking, "image": fal.drawing}


@dataclass(frozen=True, slots=True)
class Payload:
    """One upstream request: its address, its body with its media type (both None: no body), what was changed, and, where the
    service's own word for it is not the caller's, the media type of the answer. `counted` says that token counts were asked for
    which the caller did not ask for."""

    url: str
    media: str | None
    data: bytes | None = field(repr=False)
    changes: tuple[str, ...] = ()
    answered_as: str | None = None
    counted: bool = False


def payload(call: Call, route: Route) -> Payload:
    """The request of `call` to `route`. Raises BadRequest, Unprocessable or UnsupportedMedia for what this route cannot be sent."""
    made = _of_dialect(call, route)
    return replace(made, changes=(*call.changes, *made.changes))


def translated(call: Call, route: Route) -> bool:
    """Whether the call is in Anthropic's protocol and the route speaks OpenAI's."""
    return route.dialect == "openai" and call.operation.partition("?")[0] == MESSAGES


def _of_dialect(call: Call, route: Route) -> Payload:
    base = route.provider.base_url
    if call.method == "GET":
        return Payload(f"{base}/{call.operation}", None, None)
    if route.dialect == "fal":
        made = _APPS.get(route.modality, fal.Input)(call.members)
        lost = ("query dropped",) if "?" in call.operation else ()
        return Payload(f"{base}/{route.upstream}", JSON, jsonbody.encode(made.members), (*lost, *made.changes))
    if route.dialect == "genai" or route.modality == "video":
        call, changes = _filmed(call, route)
        return Payload(f"{base}/{'genai/' if route.provider.local else ''}{route.upstream}", JSON, _genai(call, route), changes)
    if translated(call, route):
        members, changes = anthropic_chat.chat(call.members, LIMITS.get(urlsplit(base).hostname or "", "max_tokens"))
        return Payload(f"{base}/chat/completions", JSON, jsonbody.encode(members, model=route.upstream), changes)
    if route.dialect == "nvidia" and route.modality in ("speech", "transcribe"):
        return _spoken(call, route)
    if route.dialect == "nvidia" and route.modality == "rerank":
        members, changes = retrieval.ranking(call.members)
        return Payload(retrieval.ranking_url(base, route.upstream), JSON, jsonbody.encode(members, model=route.upstream), changes)
    if call.form is not None:
        return Payload(f"{base}/{call.operation}", *multipart.build(_renamed(call.form, route.upstream)))
    if route.dialect == "nvidia" and route.modality == "embed":
        members, changes = retrieval.embedding(call.members)
        return Payload(f"{base}/{call.operation}", JSON, jsonbody.encode(members, model=route.upstream), changes)
    more = counting(call, route)
    members, changes = _plain(call)
    url = f"{base}/{call.operation}"
    return Payload(url, JSON, jsonbody.encode(members, model=route.upstream, **more), changes, counted=bool(more))


def _plain(call: Call) -> tuple[Members, tuple[str, ...]]:
    """The members without those that OpenAI's protocol does not have."""
    dropped = [name for name in call.members if name in call.extensions]
    if not dropped:
        return call.members, ()
    kept = {name: raw for name, raw in call.members.items() if name not in call.extensions}
    return kept, (f"{parameters.listed(dropped)} dropped: OpenAI's protocol has none",)


def _filmed(call: Call, route: Route) -> tuple[Call, tuple[str, ...]]:
    """A video call of the media door in the model's own words; others as they are."""
    if call.operation != films.OPERATION:
        return call, ()
    members, changes = films.translated(call.members, route.id)
    return replace(call, members=members), changes


def _genai(call: Call, route: Route) -> bytes:
    """The members without a model. A stand-in has other defaults than the model it stands for, so that model's are written out."""
    return jsonbody.encode(nvidia_models.explicit(route.id, call.members) if route.stand_in else call.members)


def _renamed(parts: Sequence[Part], model: str) -> list[Part]:
    """The form with the model by the provider's own name, in its place."""
    named = Part("model", model.encode())
    if not any(part.name == "model" for part in parts):
        return [*parts, named]
    return [named if part.name == "model" else part for part in parts]


def _spoken(call: Call, route: Route) -> Payload:
    provider = route.provider
    language = provider.language or speech.DEFAULT_LANGUAGE
    if route.modality == "transcribe":
        return _form(provider, call.operation, speech.recognition(call.form or (), model=provider.speech_model, language=language))
    if call.form is not None:
        return _form(provider, call.operation, speech.synthesis_form(call.form, voices=provider.voices, language=language))
    if call.operation != "audio/speech":
        return _form(provider, call.operation, speech.synthesis(call.members, voices=provider.voices, language=language))
    members, media, changes = speech.spoken(call.members)
    form = speech.synthesis(members, voices=provider.voices, language=language)
    form = replace(form, changes=(*changes, *form.changes))
    if media != speech.PCM:
        return _form(provider, "audio/synthesize", form)
    return replace(_form(provider, "audio/synthesize_online", form), answered_as=media)


def _form(provider: Provider, operation: str, form: Form) -> Payload:
    return Payload(f"{provider.base_url}/{operation}", *multipart.build(form.parts), form.changes)
