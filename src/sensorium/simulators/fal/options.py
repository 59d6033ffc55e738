"""What a simulator of fal's API can be told, as values, and from the words of a command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sensorium.errors import SettingsError
from sensorium.simulators.fal.auth import DEFAULT_KEY
from sensorium.simulators.fal.faults import Rule


@dataclass(frozen=True, slots=True)
class Options:
    """`slots` are requests of one account that run at a time, `work_s` how many seconds each runs. The same `seed` gives the same
    faults and pictures."""

    keys: tuple[str, ...] = field(default=(DEFAULT_KEY,), repr=False)
    slots: int = 2
    work_s: float = 0.2
    faults: tuple[Rule, ...] = ()
    seed: int = 0


def options(*, keys: Sequence[str], slots: int, work: float, faults: Sequence[str], seed: int) -> Options:
    """Options from texts: `faults` KIND=RATE. Raises SettingsError with all that is wrong."""
    problems, rules = list[str](), list[Rule]()
    for text in faults:
        try:
            rules.append(Rule.parsed(text))
        except SettingsError as error:
            problems += error.problems
    for place, key in enumerate(keys):
        if not (key.isascii() and key.isprintable() and " " not in key):
            problems.append(f"a key holds characters that no header can carry: the {place + 1}. --key")
        elif ":" not in key.strip(":"):
            problems.append(f"a key of fal's has two parts, ID:SECRET: the {place + 1}. --key")
    if slots < 1 or not 0 <= work < 1e6:
        problems.append("--slots must be at least 1, and --work not negative")
    if problems:
        raise SettingsError(problems)
    return Options(tuple(keys) or (DEFAULT_KEY,), slots, work, tuple(rules), seed)
