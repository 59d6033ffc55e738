"""A request as a model's container gets it, and how containers read JSON: FastAPI's way, with pydantic's own words (5.3)."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sensorium.simulators.nvidia.catalog import Model
from sensorium.simulators.nvidia.replies import detail
from sensorium.simulators.replies import Refused

Schema = TypeVar("Schema", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request inside a container. `hosted` is false for a container that runs by itself.

    `assets` holds the uploads that the call refers to. `twist` is a fault that only the model's code can make. `now` is in seconds
    since the epoch, `draw` the simulator's own chance.
    """

    model: Model
    method: str
    path: str
    body: bytes
    id: str
    now: float
    draw: random.Random
    content_type: str = "application/json"
    hosted: bool = True
    assets: Mapping[str, bytes] = field(default_factory=dict)
    twist: str = ""


class Strict(BaseModel):
    """A request body that takes no field it does not know."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


def read(schema: type[Schema], ask: Ask) -> Schema:
    """The body as `schema`. Raises Refused with FastAPI's 422 list."""
    try:
        found = json.loads(ask.body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        at = error.pos if isinstance(error, json.JSONDecodeError) else 0
        said = error.msg if isinstance(error, json.JSONDecodeError) else "Expecting value"
        refuse([{"type": "json_invalid", "loc": ["body", at], "msg": "JSON decode error", "input": {}, "ctx": {"error": said}}])
    return validated(schema, found)


def validated(schema: type[Schema], found: Any) -> Schema:
    """`found` as `schema`. Raises Refused with FastAPI's 422 list."""
    try:
        return schema.model_validate(found, from_attributes=True)
    except ValidationError as error:
        items = error.errors(include_url=False)
        refuse([{**item, "loc": ["body", *item["loc"]]} for item in items])


def refuse(items: list[dict[str, Any]]) -> NoReturn:
    """Refuse with a 422 list of validation items."""
    raise Refused(detail(422, items))


def item(kind: str, where: tuple[str | int, ...], said: str, got: Any, ctx: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One validation item, as pydantic writes it."""
    return {"type": kind, "loc": ["body", *where], "msg": said, "input": got} | ({"ctx": ctx} if ctx else {})


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
