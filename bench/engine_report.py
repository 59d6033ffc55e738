"""The record of a bench of the engine: figures with their goals, tables, what could not be measured; one JSON file, written as it grows."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RULES = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be, such as Goal("<=", 6.0)."""

    rule: str
    value: float

    def __str__(self) -> str:
        return f"{self.rule} {self.value:g}"


@dataclass(slots=True)
class Report:
    """All that was measured. `path` None keeps it off the disk; `judged` False leaves goals open, for sizes at which they mean nothing."""

    setting: Mapping[str, Any]
    path: Path | None
    judged: bool
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    _stage: str = ""

    def begin(self, stage: str) -> None:
        """What follows belongs to this stage."""
        self._stage = stage
        self.stages[stage] = {"figures": {}, "tables": {}}
        print(f"\n{stage}", flush=True)

    def figure(self, name: str, value: float, unit: str, goal: Goal | None = None, note: str = "") -> None:
        """One number, held against its goal."""
        entry: dict[str, Any] = {"value": _short(value), "unit": unit}
        said = f"  {name:44} {_short(value):>12} {unit:12}"
        if goal is not None:
            met = bool(RULES[goal.rule](value, goal.value)) if self.judged else None
            entry |= {"goal": str(goal), "met": met}
            said += f" goal {goal}: {'not judged' if met is None else 'met' if met else 'missed'}"
        if note:
            entry["note"] = note
            said += f"  ({note})"
        self.stages[self._stage]["figures"][name] = entry
        print(said.rstrip(), flush=True)

    def row(self, table: str, **columns: Any) -> None:
        """One line of a table."""
        line = {name: _short(value) if isinstance(value, float) else value for name, value in columns.items()}
        self.stages[self._stage]["tables"].setdefault(table, []).append(line)
        print(f"  {table}: " + ", ".join(f"{name} {value}" for name, value in line.items()), flush=True)

    def warned(self, what: str) -> None:
        """Something went another way than it should, such as without graphs."""
        self.stages.setdefault(self._stage, {}).setdefault("warnings", []).append(what)
        print(f"  warning: {what}", flush=True)

    def failed(self, why: str) -> None:
        """The stage broke off."""
        self.stages[self._stage]["failed"] = why
        print(f"  failed: {why}", flush=True)

    def end(self, seconds: float) -> None:
        """The stage is over; the file says so."""
        self.stages[self._stage]["seconds"] = round(seconds, 1)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.whole(), indent=1) + "\n", "utf-8")

    def whole(self) -> dict[str, Any]:
        """Everything, as the file and the last line of the output hold it."""
        figures = [one for stage in self.stages.values() for one in stage["figures"].values()]
        counts = {word: sum(one.get("met") is flag for one in figures) for word, flag in (("met", True), ("missed", False))}
        return {
            **self.setting,
            **counts,
            "failed": [name for name, stage in self.stages.items() if "failed" in stage],
            "stages": self.stages,
        }


def _short(value: float) -> float:
    """Four digits that count, whole numbers whole."""
    return value if isinstance(value, int) else float(f"{value:.4g}") if abs(value) < 10000 else round(value)
