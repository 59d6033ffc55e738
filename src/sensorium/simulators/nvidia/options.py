"""What a simulator of NVIDIA's API can be told, as values, and from the words of a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sensorium.errors import SettingsError
from sensorium.simulators.nvidia.auth import DEFAULT_KEY
from sensorium.simulators.nvidia.catalog import MODELS
from sensorium.simulators.nvidia.faults import Rule
from sensorium.simulators.nvidia.limits import RPM


@dataclass(frozen=True, slots=True)
class Options:
    """`rpm` are calls per minute and key, 0 for no limit; `caps` are further limits per model, over all keys.

    `work_s` is how many seconds models work, by name or `*`; `pexec` names models whose gateway routes run in compatibility mode
    beside those that do anyway. The same `seed` gives the same faults.
    """

    keys: tuple[str, ...] = field(default=(DEFAULT_KEY,), repr=False)
    rpm: int = RPM
    caps: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[Rule, ...] = ()
    work_s: Mapping[str, float] = field(default_factory=dict)
    pexec: frozenset[str] = frozenset()
    seed: int = 0


def options(
    *, keys: Sequence[str], rpm: int, caps: Sequence[str], faults: Sequence[str], work: Sequence[str], pexec: Sequence[str], seed: int
) -> Options:
    """Options from texts: `caps` MODEL=RPM, `work` MODEL=SECONDS, `faults` KIND=RATE. Raises SettingsError with all that is wrong."""
    problems: list[str] = []
    rules = []
    for text in faults:
        try:
            rules.append(Rule.parsed(text))
        except SettingsError as error:
            problems += error.problems
    limits, seconds = _numbers("--cap", caps, problems), _numbers("--work", work, problems)
    known = {model.name for model in MODELS} | {"*"}
    problems += [f"no simulated model is called {name!r}" for name in sorted({*limits, *seconds, *pexec} - known)]
    problems += [
        f"a key holds characters that no header can carry: the {place + 1}. --key" for place, key in enumerate(keys) if not _sendable(key)
    ]
    if problems:
        raise SettingsError(problems)
    counts = {name: round(number) for name, number in limits.items()}
    return Options(tuple(keys) or (DEFAULT_KEY,), rpm, counts, tuple(rules), seconds, frozenset(pexec), seed)


def _numbers(flag: str, texts: Sequence[str], problems: list[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.replace(".", "", 1).isdecimal():
            problems.append(f"{flag} {text!r}: write it as MODEL=NUMBER")
            continue
        found[name] = float(number)
    return found


def _sendable(key: str) -> bool:
    return bool(key) and key.isascii() and key.isprintable() and " " not in key
