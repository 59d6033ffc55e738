"""What every rule about ordered faults has: a kind, how often, how long; and how it is written on the command line."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Self

from sensorium.errors import SettingsError


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

    def problems(self) -> list[str]:
        """What is wrong with it, one sentence each."""
        found = [] if self.kind in self.kinds else [f"fault {self.kind!r} is unknown; there are {', '.join(sorted(self.kinds))}"]
        found += [] if 0 <= self.rate <= 1 else [f"fault {self.kind}: the rate {self.rate:g} must be from 0 to 1"]
        return found + ([] if (self.seconds or 0) >= 0 else [f"fault {self.kind}: the seconds must not be negative"])
