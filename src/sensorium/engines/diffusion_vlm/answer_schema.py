"""Which schemas an answer can be held to at all: size and shape, before anything compiles them. It does not know grammars or tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NoReturn

from sensorium.errors import BadRequest

WHERE = "response_format"
LARGEST = 64 * 1024  # characters of a schema
DEEPEST = 100  # llguidance reads 128
LARGEST_MULTIPLE = 10_000  # `multipleOf` takes an automaton with a state per remainder


def check_mode(mode: str, schema: str | None) -> None:
    """Raises BadRequest when a mode cannot hold answers to a schema: blocks that are unmasked in any order follow no grammar."""
    if schema is not None and mode == "diffusion":
        raise BadRequest(
            f"mode diffusion cannot hold an answer to {WHERE}: it writes a block's tokens in any order",
            param="mode",
            hint="leave mode out, or send linear or ar",
        )


def screen(schema: str) -> None:
    """Refuse what would take the compiler too long, and what it takes without keeping it. Raises BadRequest."""
    if len(schema) > LARGEST:
        raise refused(f"it has {len(schema)} characters, at most {LARGEST} are read")
    try:
        value = json.loads(schema, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise refused(f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise refused("it is not an object")
    if "x-guidance" in value:
        raise refused("x-guidance is not taken from callers")
    parts = list(_objects(value))
    _screen_multiples([part["multipleOf"] for part in parts if _is_number(part.get("multipleOf"))])
    for part in parts:
        least, required = part.get("minProperties", 0), part.get("required")
        if _is_number(least) and least > 1 + (len(required) if isinstance(required, list) else 0):
            # Members of free names may come twice under one name, which makes one of them.
            raise refused(f"minProperties is {least}, more than one above the number of required members")


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _screen_multiples(divisors: Sequence[int | float]) -> None:
    exact = [Decimal(str(one)) for one in divisors if one > 0]
    places = max((-int(one.as_tuple().exponent) for one in exact), default=0)
    if (
        places > 9
        or any(one > LARGEST_MULTIPLE for one in exact)
        or math.lcm(*(int(one.scaleb(max(places, 0))) for one in exact)) > LARGEST_MULTIPLE
    ):
        raise refused(f"the least common multiple of all multipleOf, without their point, is above {LARGEST_MULTIPLE}")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _objects(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The value and all objects in it, level by level."""
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        if not level:
            return
        yield from (one for one in level if isinstance(one, dict))
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())]
    raise refused(f"it is nested more than {DEEPEST} deep")


def refused(reason: str) -> BadRequest:
    """The error for a schema that is not taken, with the reason in one line."""
    return BadRequest(f"the schema in {WHERE} cannot be used: {' '.join(reason.split()):.300}", param=WHERE)
