"""Faults that are ordered: by rules with an app and a number of times, or for a share of the requests; a seed decides."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar, Final, Literal

from sensorium.simulators.rules import Order

Stage = Literal["submit", "work", "status", "result", "file"]
KINDS: Final[dict[str, Stage]] = {
    "429": "submit",  # with Retry-After of SECONDS
    "500": "submit",
    "503": "submit",  # with Retry-After of SECONDS
    "wrong-host": "submit",  # the addresses in the answer are on another host
    "slow": "work",  # SECONDS more
    "never": "work",  # no runner picks it up
    "stuck": "work",  # it is worked on for ever
    "error": "work",  # the app fails, with 500
    "lost": "status",  # nobody knows the request any more
    "status-500": "status",
    "result-503": "result",
    "no-file": "file",
}
SECONDS: Final = {"429": 7.0, "503": 7.0, "slow": 30.0}


@dataclass(frozen=True, slots=True)
class Rule(Order):
    """An order for the requests of an app, a glob."""

    kinds: ClassVar[Collection[str]] = KINDS
    app: str = "*"


class Faults:
    """The rules in force."""

    def __init__(self, rules: Iterable[Rule], seed: int) -> None:
        self._rules = list(rules)
        self._chance = random.Random(seed)

    def rules(self) -> list[Rule]:
        """The rules, with the times that are left."""
        return list(self._rules)

    def add(self, rule: Rule) -> None:
        """Put a rule behind the others."""
        self._rules.append(rule)

    def clear(self) -> None:
        """Forget all rules."""
        self._rules.clear()

    def pick(self, stage: Stage, app: str) -> tuple[str, float]:
        """The kind and the seconds of the fault that a request meets at `stage`; "" for none."""
        for place, rule in enumerate(self._rules):
            fits = KINDS[rule.kind] == stage and rule.times != 0 and fnmatchcase(app, rule.app)
            if fits and self._chance.random() < rule.rate:
                if rule.times is not None:
                    self._rules[place] = replace(rule, times=rule.times - 1)
                return rule.kind, SECONDS.get(rule.kind, 0.0) if rule.seconds is None else rule.seconds
        return "", 0.0
