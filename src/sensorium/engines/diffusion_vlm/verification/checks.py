"""A list of checks with their outcomes. It does not know what is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from sensorium.errors import SensoriumError

T = TypeVar("T")
State = Literal["ok", "FAIL", "skipped", "told"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: "ok", "FAIL", "skipped" (the figure says why), or "told", which nobody can judge. The figure may have several lines."""

    name: str
    state: State
    figure: str


class Failed(Exception):
    """A check did not pass; the message says by what."""


class Report:
    """Runs checks one after the other; one that fails or breaks does not hide those after it."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    @property
    def failed(self) -> bool:
        return any(check.state == "FAIL" for check in self.checks)

    def run(self, name: str, check: Callable[[], str], *, judged: bool = True) -> bool:
        """Run a check that returns its figure or raises; whether it passed. What is not `judged` is told, unless it raises."""
        figure = self.open(name, check)
        if figure is not None:
            self.checks.append(Check(name, "ok" if judged else "told", figure))
        return figure is not None

    def open(self, name: str, opener: Callable[[], T]) -> T | None:
        """What the opener gives; None, and the check of that name has failed, when it raises."""
        try:
            return opener()
        except Failed as failure:
            figure = str(failure)
        except SensoriumError as error:
            figure = error.message
        except Exception as error:  # outermost: a check that breaks must not hide the others
            figure = f"broke: {type(error).__name__}: {error}"
        self.checks.append(Check(name, "FAIL", figure))
        return None

    def skip(self, names: tuple[str, ...], why: str) -> None:
        """Note checks that are not run."""
        self.checks += [Check(name, "skipped", why) for name in names]


def hold(true: bool, otherwise: str) -> None:
    """Raises Failed with the sentence when something does not hold."""
    if not true:
        raise Failed(otherwise)
