"""The gateways (sections 1, 2, 4): the OpenAI-shaped host, which routes by the model in the body, and the vanity hosts, which route by
path. Both route before they look at the key.

Guesses: the bodies of /health and /info, the decoder's words, that a `model` which is no string is malformed JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from sensorium.simulators import multipart
from sensorium.simulators.nvidia.call import Call
from sensorium.simulators.nvidia.catalog import CHAT_PATHS, CREATED, INTEGRATE, Catalog, Model, rfc3339
from sensorium.simulators.nvidia.faults import HEADER, Faults
from sensorium.simulators.nvidia.incidents import INCIDENTS, gone, offline
from sensorium.simulators.nvidia.invocation import Invocation, Terms
from sensorium.simulators.nvidia.jobs import GATEWAY_POLL_S
from sensorium.simulators.nvidia.replies import TEXT, gateway_error, plain
from sensorium.simulators.replies import Refused, Reply, json_reply

BODY_CAP = 25 * 1024 * 1024
FORM_PATHS = ("/v1/images/edits", "/v1/images/variations")
POST_PATHS = (*CHAT_PATHS, "/v1/embeddings", "/v1/images/generations", *FORM_PATHS)
STATUS = "/v1/status/"
MODELS = "/v1/models"
EVENTS = "text/event-stream"
TOO_LARGE = (
    f"Please make sure your payload is below {BODY_CAP} bytes in size. If larger assets are required please refer to our Assets API."
)


class Gateway:
    """Answers for every gateway host."""

    def __init__(self, catalog: Catalog, invocation: Invocation, faults: Faults, now: Callable[[], float]) -> None:
        self._catalog, self._invocation, self._faults, self._now = catalog, invocation, faults, now

    async def answer(self, call: Call, body: bytes) -> Reply:
        """Any call of a gateway host. Raises Refused."""
        if call.place.path in ("/health", "/info"):
            said = {"status": "OK"} if call.place.path == "/health" else {"name": "gateway", "version": "simulated"}
            return json_reply(said) if call.method == "GET" else Reply(405)
        return await (self._openai_shaped if call.place.host == INTEGRATE else self._vanity)(call, body)

    async def _openai_shaped(self, call: Call, body: bytes) -> Reply:
        path = call.place.path
        if path == MODELS or path.startswith(f"{MODELS}/"):
            return self._models(path) if call.method == "GET" else Reply(405)
        if path not in POST_PATHS:
            raise Refused(plain(404, "404 page not found"))
        if call.method != "POST":
            raise Refused(Reply(405))
        if len(body) > BODY_CAP:
            raise Refused(gateway_error(TOO_LARGE, "invalid_image_format"))
        name, streams = (_form_model(call, body), False) if path in FORM_PATHS else _routed(body)
        if not name:
            raise Refused(gateway_error("model field is required", "missing_required_field"))
        model = self._catalog.by_name(path, name)
        if model is None:
            raise Refused(plain(404, "404 page not found"))
        return await self._invoke(call, body, model, path, streams or call.header("accept") == EVENTS)

    async def _vanity(self, call: Call, body: bytes) -> Reply:
        path = call.place.path
        if path.startswith(STATUS) and "/" not in path[len(STATUS) :]:
            return await self._invocation.poll(call, path[len(STATUS) :]) if call.method == "GET" else Reply(405)
        model = self._catalog.by_path(call.place.host, path)
        if model is None:
            raise Refused(plain(404, "404 page not found"))
        if call.method != "POST":
            raise Refused(Reply(405))
        return await self._invoke(call, body, model, model.path, call.header("accept") == EVENTS)

    async def _invoke(self, call: Call, body: bytes, model: Model, path: str, streams: bool) -> Reply:
        self._alive(model)
        fault = self._faults.pick("gateway", call.header(HEADER), model.name)
        if fault:
            raise Refused(INCIDENTS[fault.kind].answer(model))
        terms = Terms(GATEWAY_POLL_S, compatible=model.pexec and not streams)
        reply = await self._invocation.invoke(call, body, model, path, terms)
        return replace(reply, headers={**reply.headers, "deprecation": rfc3339(model.ends)}) if model.ends else reply

    def _alive(self, model: Model) -> None:
        if model.retired(self._now()):
            raise Refused(gone(model))
        if model.offline:
            raise Refused(offline(model))

    def _models(self, path: str) -> Reply:
        """GET /v1/models and /v1/models/{model} (4.2); no key is needed."""
        if path == MODELS:
            return json_reply({"object": "list", "data": [_entry(model) for model in self._catalog.listed(self._now())]})
        name = path[len(MODELS) + 1 :]
        model = next((model for model in self._catalog.openai_shaped() if model.name == name), None)
        if model is None:
            raise Refused(plain(404, f"Model does not exist by the name of {name}"))
        self._alive(model)
        return json_reply(_entry(model))


def _entry(model: Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": CREATED, "owned_by": model.name.partition("/")[0]}


def _routed(body: bytes) -> tuple[str, bool]:
    """The model that a JSON body names, the first one where it is repeated, and whether it asks for a stream."""
    try:
        found = json.loads(body, object_pairs_hook=_first_wins)
    except (ValueError, RecursionError) as error:
        _undecodable(str(error) if body.strip() else "EOF")
    if not isinstance(found, dict) or not isinstance(found.get("model", ""), str | None):
        _undecodable("json: cannot unmarshal this value into an object with a string model")
    return found.get("model") or "", found.get("stream") is True


def _undecodable(said: str) -> NoReturn:
    raise Refused(Reply(500, f"failed to decode json body: {said}\n".encode("utf-8", "replace"), {"content-type": TEXT}))


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _form_model(call: Call, body: bytes) -> str:
    try:
        fields = multipart.parse(call.header("content-type"), body)
    except multipart.BadForm:
        return ""
    return next((field.text for field in fields if field.name == "model"), "")
