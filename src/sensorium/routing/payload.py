"""What a route is sent for a call: address, body and what differs from the caller's body. Pure; relayed unless the dialects differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sensorium.exchange import JSON
from sensorium.routing.call import Call, Provider, Route
from sensorium.wire import jsonbody, multipart, nvidia_models, retrieval, speech
from sensorium.wire.multipart import Part
from sensorium.wire.speech import Form


@dataclass(frozen=True, slots=True)
class Payload:
    """One upstream request: its address, its body with its media type (both None: no body), what was changed, and, where the
    service's own word for it is not the caller's, the media type of the answer."""

    url: str
    media: str | None
    data: bytes | None = field(repr=False)
    changes: tuple[str, ...] = ()
    answered_as: str | None = None


def payload(call: Call, route: Route) -> Payload:
    """The request of `call` to `route`. Raises BadRequest, Unprocessable or UnsupportedMedia for what this route cannot be sent."""
    made = _of_dialect(call, route)
    return replace(made, changes=(*call.changes, *made.changes))


def _of_dialect(call: Call, route: Route) -> Payload:
    base = route.provider.base_url
    if call.method == "GET":
        return Payload(f"{base}/{call.operation}", None, None)
    if route.dialect == "genai" or route.modality == "video":
        return Payload(f"{base}/{'genai/' if route.provider.local else ''}{route.upstream}", JSON, _genai(call, route))
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
    return Payload(f"{base}/{call.operation}", JSON, jsonbody.encode(call.members, model=route.upstream))


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
