"""The OpenAPI description of an app: its input and output as pydantic describes them, in the dialect of OpenAPI 3.0, at the run and
queue doors. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from sensorium.wire import fal
from sensorium.wire.fal_input import Input

VERSION: Final = "3.0.3"
ORDER: Final = "x-fal-order-properties"
RUN, QUEUE = "/run", "/queue"  # below the servers' address
_REF: Final = "#/components/schemas/"
_STATES: Final = ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
_AS_IT_IS: Final = ("default", "example", "enum", "const", "required")  # members of a schema that are values, not schemas
_TEXT: Final = {"type": "string"}
_STATUS: Final[dict[str, Any]] = {
    "type": "object",
    ORDER: ["status", "request_id", "response_url", "status_url", "cancel_url", "queue_position", "logs", "metrics", "error", "error_type"],
    "properties": {
        "status": {"type": "string", "enum": list(_STATES)},
        "request_id": {**_TEXT, "description": "The request id."},
        "response_url": {**_TEXT, "description": "Where the result is."},
        "status_url": {**_TEXT, "description": "Where the status is."},
        "cancel_url": {**_TEXT, "description": "Where it is cancelled."},
        "queue_position": {"type": "integer", "minimum": 0, "description": "How many requests are ahead, while it waits."},
        "logs": {"type": "array", "nullable": True, "items": {"type": "object"}, "description": "The lines of its log, if asked for."},
        "metrics": {"type": "object", "description": "How long it took."},
        "error": {**_TEXT, "description": "Why it failed."},
        "error_type": {**_TEXT, "description": "The same, for programs."},
    },
    "required": ["status", "request_id"],
}
_FAULTS: Final[dict[str, Any]] = {
    "type": "object",
    ORDER: ["detail", "message"],
    "properties": {
        "detail": {
            "type": "array",
            "items": {
                "type": "object",
                ORDER: ["loc", "msg", "type", "url", "ctx", "input"],
                "properties": {
                    "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
                    "msg": _TEXT,
                    "type": _TEXT,
                    "url": _TEXT,
                    "ctx": {"type": "object"},
                    "input": {},
                },
                "required": ["loc", "msg", "type"],
            },
        },
        "message": _TEXT,
    },
    "required": ["detail"],
}


@dataclass(frozen=True, slots=True)
class Described:
    """What there is to say of an endpoint: its id, what it is called, its modality, its schemas, and whether it streams."""

    endpoint: str
    title: str
    category: str
    input: type[BaseModel]
    output: type[BaseModel]
    streams: bool = False


def describe(app: Described, base_url: str) -> dict[str, Any]:
    """The whole document; `base_url` is the hub's, without a slash at the end."""
    schemas = {"QueueStatus": _STATUS} | parts(app.input, app.output)
    return {
        "openapi": VERSION,
        "info": {
            "title": app.title,
            "version": "1.0.0",
            "description": f"The app {app.endpoint} of this hub.",
            "x-fal-metadata": {"endpointId": app.endpoint, "category": app.category},
        },
        "servers": [{"url": f"{base_url}/fal"}],
        "security": [{"apiKeyAuth": []}],
        "paths": _paths(app),
        "components": {
            "securitySchemes": {
                "apiKeyAuth": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Key <your key>"},
            },
            "schemas": schemas,
        },
    }


def parts(*models: type[BaseModel]) -> dict[str, Any]:
    """The schemas of a document that refers to these models, and to the reply that refuses an input, by name."""
    schemas: dict[str, Any] = {"HTTPValidationError": _FAULTS}
    for model in models:
        schemas |= _components(model)
    return schemas


def call(name: str, given: type[BaseModel], made: type[BaseModel], *, streams: bool = False) -> dict[str, Any]:
    """A door that takes one model and answers with the other, whole or in events; `name` is its operation's."""
    answer = _events(made.__name__) if streams else _json("The output.", made.__name__)
    return {"post": _operation(name, given, answer)}


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of one model, its parts by reference."""
    return _components(model)[model.__name__]


def _components(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    given = issubclass(model, Input)
    found = model.model_json_schema(ref_template=f"{_REF}{{model}}")
    parts = found.pop("$defs", {})
    return {name: _in_version_3_0(part, given) for name, part in {**parts, model.__name__: found}.items()}


def _in_version_3_0(found: Any, given: bool) -> Any:
    """A schema without what JSON Schema has beyond OpenAPI 3.0: the type null, constants, bounds that are numbers of their own.

    What is `given` rather than made is described as it is when it is not left out; what is made may be null.
    """
    if isinstance(found, list):
        return [_in_version_3_0(one, given) for one in found]
    if not isinstance(found, dict):
        return found
    made = {name: value if name in _AS_IT_IS else _in_version_3_0(value, given) for name, value in found.items() if name != "properties"}
    if "properties" in found:
        made["properties"] = {name: _in_version_3_0(value, given) for name, value in found["properties"].items()}
        made[ORDER] = list(found["properties"])
    if "const" in made:
        made["enum"] = [made.pop("const")]
    for bound in ("Minimum", "Maximum"):
        if isinstance(made.get(f"exclusive{bound}"), int | float):
            made[bound.lower()], made[f"exclusive{bound}"] = made[f"exclusive{bound}"], True
    return _without_null(made, given)


def _without_null(made: dict[str, Any], given: bool) -> dict[str, Any]:
    if made.get("default", ...) is None:
        del made["default"]
    branches = made.get("anyOf")
    if isinstance(branches, list) and {"type": "null"} in branches:
        left = [one for one in branches if one != {"type": "null"}]
        rest = {name: value for name, value in made.items() if name != "anyOf"}
        made = {**left[0], **rest} if len(left) == 1 else {**rest, "anyOf": left}
        made |= {} if given else {"nullable": True}
    if "$ref" in made and len(made) > 1:
        made = {"allOf": [{"$ref": made.pop("$ref")}], **made}
    return made


def _paths(app: Described) -> dict[str, Any]:
    request = f"{QUEUE}/{fal.endpoint(app.endpoint)}/requests/{{request_id}}"
    output = app.output.__name__
    streamed = {f"{RUN}/{app.endpoint}/stream": call("stream", app.input, app.output, streams=True)} if app.streams else {}
    return {
        f"{RUN}/{app.endpoint}": call("run", app.input, app.output),
        **streamed,
        f"{QUEUE}/{app.endpoint}": {"post": _operation("submit", app.input, _json("The request, in the queue.", "QueueStatus"))},
        request: {"get": _asks("result", {"200": _json("The output.", output), "422": _refused()})},
        f"{request}/status": {
            "get": _asks("status", {"200": _json("It is over.", "QueueStatus"), "202": _json("It is not.", "QueueStatus")}, logs=True)
        },
        f"{request}/cancel": {"put": _asks("cancel", {"202": {"description": "It will be."}, "400": {"description": "It is over."}})},
    }


def _operation(name: str, given: type[BaseModel], answer: dict[str, Any]) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": f"{_REF}{given.__name__}"}}}}
    return {"operationId": name, "requestBody": body, "responses": {"200": answer, "422": _refused()}}


def _asks(name: str, answers: Mapping[str, Any], *, logs: bool = False) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [{"name": "request_id", "in": "path", "required": True, "schema": _TEXT}]
    if logs:
        parameters.append({"name": "logs", "in": "query", "required": False, "schema": {"type": "integer", "enum": [0, 1], "default": 0}})
    return {"operationId": name, "parameters": parameters, "responses": dict(answers)}


def _json(text: str, name: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": f"{_REF}{name}"}}}}


def _events(name: str) -> dict[str, Any]:
    return {
        "description": f"Events whose data are outputs as they grow; the last is the whole {name}.",
        "content": {"text/event-stream": {"schema": _TEXT}},
    }


def _refused() -> dict[str, Any]:
    return _json("The input cannot be taken.", "HTTPValidationError")
