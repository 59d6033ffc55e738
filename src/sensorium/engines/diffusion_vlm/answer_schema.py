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
    """Refuse by size and shape what would take the compiler too long. Raises BadRequest."""
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
    divisors = [Decimal(str(one)) for one in _multiples(value)]
    places = max((-int(one.as_tuple().exponent) for one in divisors), default=0)
    if places > 9 or any(one > LARGEST_MULTIPLE for one in divisors) or math.lcm(*_whole(divisors, places)) > LARGEST_MULTIPLE:
        raise refused(f"the least common multiple of all multipleOf, without their point, is above {LARGEST_MULTIPLE}")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _multiples(schema: dict[str, Any]) -> Iterator[int | float]:
    """The positive numbers under the key multipleOf, anywhere."""
    level: list[Any] = [schema]
    for _ in range(DEEPEST):
        if not level:
            return
        inner: list[Any] = []
        for value in level:
            number: Any = value.get("multipleOf") if isinstance(value, dict) else None
            if type(number) in (int, float) and number > 0:
                yield number
            inner += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        level = inner
    raise refused(f"it is nested more than {DEEPEST} deep")


def _whole(divisors: Sequence[Decimal], places: int) -> list[int]:
    return [int(one.scaleb(max(places, 0))) for one in divisors]


def refused(reason: str) -> BadRequest:
    """The error for a schema that is not taken, with the reason in one line."""
    return BadRequest(f"the schema in {WHERE} cannot be used: {' '.join(reason.split()):.300}", param=WHERE)
