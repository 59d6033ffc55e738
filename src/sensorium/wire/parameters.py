"""What a call's parameters may be: kinds of values, the one sentence that refuses a value (what, its value, what is taken), and the
list of those without effect.

Pure; it knows no dialect and no model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from sensorium.errors import Unprocessable
from sensorium.wire import jsonbody

NAME_SHOWN, TEXT_SHOWN, VALUE_SHOWN = 80, 40, 60
LISTED, LONGEST = 40, 60


class Rule(Protocol):
    """A kind of value. As a string it ends the sentence "<model> takes ..."."""

    def admits(self, given: Any) -> bool:
        """Whether `given`, as JSON or a Python caller gave it, is of this kind."""
        ...


@dataclass(frozen=True, slots=True)
class Integer:
    """Multiples of `step` from `low` to `high`, both included and multiples themselves.

    4.0 counts as 4, as in JSON Schema; booleans are no numbers.
    """

    low: int
    high: int
    step: int = 1

    @property
    def values(self) -> Sequence[int]:
        """All of them, ascending."""
        return range(self.low, self.high + 1, self.step)

    def admits(self, given: Any) -> bool:
        whole = given.is_integer() if isinstance(given, float) else isinstance(given, int) and not isinstance(given, bool)
        return whole and self.low <= given <= self.high and given % self.step == 0

    def __str__(self) -> str:
        if self.low == self.high:
            return f"only {self.low}"
        return f"an integer, {self.low}..{self.high}" + (f" in steps of {self.step}" if self.step > 1 else "")


@dataclass(frozen=True, slots=True)
class Number:
    """Finite numbers from `low` to `high`, `low` itself excluded where `above` is set. With `or_zero` 0 is taken too, for the default."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    or_zero: bool = False

    def admits(self, given: Any) -> bool:
        if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) < math.inf:
            return False
        inside = self.low <= given <= self.high and not (self.above and given == self.low)
        return inside or (self.or_zero and given == 0)

    def __str__(self) -> str:
        span = f" above {self.low:g} and up to {self.high:g}" if self.above else f", {self.low:g}..{self.high:g}"
        unbounded = math.isinf(self.low) and math.isinf(self.high)
        return "a number" + ("" if unbounded else span) + (", or 0 for the default" if self.or_zero else "")


@dataclass(frozen=True, slots=True)
class OneOf:
    """Some values and no others; without any, the parameter exists and takes nothing."""

    values: tuple[Any, ...]

    def admits(self, given: Any) -> bool:
        return any(given == value and isinstance(given, bool) == isinstance(value, bool) for value in self.values)

    def __str__(self) -> str:
        texts = [value if isinstance(value, str) else json.dumps(value) for value in self.values]
        if len(texts) > 1:
            return f"one of {', '.join(texts)}"
        return f"only {texts[0]}" if texts else "none; leave it out"


@dataclass(frozen=True, slots=True)
class Text:
    """Strings of `low` to `high` characters."""

    low: int
    high: int

    def admits(self, given: Any) -> bool:
        return isinstance(given, str) and self.low <= len(given) <= self.high

    def __str__(self) -> str:
        return f"a string of {self.low} to {self.high} characters"


def check(name: str, given: Any, rule: Rule, taker: str) -> Any:
    """`given` as it is. Raises Unprocessable when `rule` does not admit it; None counts as missing, for which no rule holds."""
    if not rule.admits(given):
        raise Unprocessable(f"{name} is {shown(given)}; {taker} takes {rule}", param=name)
    return given


def optional(name: str, given: Any, rule: Rule, taker: str) -> Any:
    """As `check`, for a parameter that may be left out: None passes."""
    return None if given is None else check(name, given, rule, taker)


def refuse_unknown(found: Iterable[str], known: Collection[str], taker: str) -> None:
    """Raise Unprocessable for the first name in `found` that is not among the `known` ones."""
    for name in found:
        if name not in known:
            short = name[:NAME_SHOWN]
            raise Unprocessable(f"{short}: extra inputs are not permitted; {taker} takes {', '.join(known)}", param=short)


def listed(names: Sequence[str]) -> str:
    """Names or words as one header line: percent-encoded where they are not plain ASCII, a long list cut with a count of the rest."""
    shown = ", ".join(quote(name[:LONGEST], safe=" '") for name in names[:LISTED])
    return shown + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def shown(given: Any) -> str:
    """A value in a message: short, and of a long string only its length, since it may be a prompt or a picture."""
    if given is None:
        return "missing"
    if isinstance(given, str) and len(given) > TEXT_SHOWN:
        return f"a string of {len(given)} characters"
    if isinstance(given, list | dict):
        return jsonbody.kind(given)
    try:
        return json.dumps(given)[:VALUE_SHOWN]
    except ValueError:  # more digits than Python prints
        return "a number of thousands of digits"
