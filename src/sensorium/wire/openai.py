"""The OpenAI dialect: error bodies, the model list, and what a chat call contains."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from sensorium.errors import BadRequest, InvalidModel, SensoriumError, Unprocessable
from sensorium.wire import jsonbody
from sensorium.wire.jsonbody import Members

MODEL_NAME_CAP = 200
CREDENTIALS = ("key", "token", "secret", "password", "signature", "sig", "credential", "auth", "authorization")
_QUERY_SAFE = "!$%&'()*+,/:;=?@[]~"


def error_object(err: SensoriumError, request_id: str) -> dict[str, Any]:
    """The `error` member that every /v1 route carries (hub contract B2.7)."""
    return {
        "message": err.message,
        "type": err.kind,
        "code": err.code,
        "param": err.param,
        "request_id": request_id,
        "hint": err.hint,
    }


def error(err: SensoriumError, request_id: str) -> bytes:
    """The whole error body in OpenAI's shape."""
    return msgspec.json.encode({"error": error_object(err, request_id)})


def model_name(found: Members) -> str:
    """The model asked for; missing, null or blank means `*`, the hub's choice.

    Raises Unprocessable when it is not a string, InvalidModel for names that no model can have.
    """
    return checked_name(jsonbody.text(found, "model") or "*")


def checked_name(name: str) -> str:
    """The name stripped, or InvalidModel: it may hold letters, digits and `. _ - : / @ +`, no `..`, and no part that is empty or a dot."""
    name = name.strip() or "*"
    plain = all(c.isascii() and (c.isalnum() or c in "._-:/@+") for c in name)
    parted = all(part.strip(".") for part in name.split("/"))  # it may become the end of a provider's path
    if name != "*" and not (plain and parted and ".." not in name and len(name) <= MODEL_NAME_CAP):
        raise InvalidModel(f"{name[:80]!r} is not a model name; ask GET /v1/models for the names served here", param="model")
    return name


def query(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """A caller's query string as it may go on to a provider, and the names of the parameters that may not.

    A parameter stays behind when the letters of its name end in one of CREDENTIALS: `key`, `api-key`, `access_token`.
    """
    kept: list[str] = []
    dropped: list[str] = []
    for pair in quote(raw, safe=_QUERY_SAFE).split("&"):
        names = [unquote(part.partition("=")[0]) for part in pair.split(";")]  # some servers part at ; as well
        secret = [name for name in names if re.sub("[^a-z]", "", name.lower()).endswith(CREDENTIALS)]
        dropped += secret
        kept += [] if secret else [pair]
    return "&".join(kept), tuple(dropped)


def chat_needs(found: Members) -> frozenset[str]:
    """`{"vision"}` when any message holds an image part, else `{"text"}`.

    Raises BadRequest without a `messages` member, Unprocessable when it is not a non-empty array of objects.
    """
    messages = jsonbody.objects(found, "messages", Unprocessable)
    return frozenset({"vision"} if any(_has_image(message.get("content")) for message in messages) else {"text"})


def response_needs(found: Members) -> frozenset[str]:
    """As `chat_needs`, for the Responses protocol: `input` is a text or a list of items. Raises BadRequest without it."""
    if "input" not in found:
        raise BadRequest("input is missing; send a text or an array of items", param="input")
    given = jsonbody.value(found, "input")
    items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    return frozenset({"vision"} if any(_has_image(item.get("content")) for item in items) or _has_image(items) else {"text"})


def _has_image(content: Any) -> bool:
    parts = content if isinstance(content, list) else ()
    return any(isinstance(part, dict) and part.get("type") in ("image_url", "input_image") for part in parts)


def model_list(entries: Iterable[dict[str, Any]]) -> bytes:
    """The body of GET /v1/models."""
    return msgspec.json.encode({"object": "list", "data": list(entries)})
