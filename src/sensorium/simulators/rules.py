"""What every rule about ordered faults has: a kind, how often, how long; and how it is written on the command line and in JSON."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import msgspec

from sensorium.errors import BadRequest, SettingsError


@dataclass(frozen=True, slots=True)
class Order:
    """Orders a fault of one of the `kinds` that there are: `rate` from 0 to 1, `times` None for ever, `seconds` None for the kind's own."""

    kind: str
    rate: float = 1.0
    times: int | None = None
    seconds: float | None = None
    kinds: ClassVar[Collection[str]] = ()

    @classmethod
    def parsed(cls, text: str) -> Self:
        """A rule from KIND, KIND=RATE or KIND=RATE:SECONDS. Raises SettingsError."""
        kind, _, numbers = text.partition("=")
        rate, _, seconds = numbers.partition(":")
        try:
            found = cls(kind, rate=float(rate or 1), seconds=float(seconds) if seconds else None)
        except ValueError:
            raise SettingsError([f"fault {text!r}: write it as KIND=RATE or KIND=RATE:SECONDS, such as 429=0.05"]) from None
        if found.problems():
            raise SettingsError(found.problems())
        return found

    @classmethod
    def read(cls, body: bytes) -> Self:
        """A rule from a JSON object. Raises BadRequest."""
        try:
            rule = msgspec.convert(msgspec.json.decode(body), cls, strict=True)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise BadRequest(f"a fault is an object with {', '.join(one.name for one in fields(cls))}: {error}") from None
        if rule.problems():
            raise BadRequest("; ".join(rule.problems()))
        return rule

    def problems(self) -> list[str]:
        """What is wrong with it, one sentence each."""
        found = [] if self.kind in self.kinds else [f"fault {self.kind!r} is unknown; there are {', '.join(sorted(self.kinds))}"]
        found += [] if 0 <= self.rate <= 1 else [f"fault {self.kind}: the rate {self.rate:g} must be from 0 to 1"]
        return found + ([] if (self.seconds or 0) >= 0 else [f"fault {self.kind}: the seconds must not be negative"])
