"""The lines that a run logs: kept in memory while it runs, on disk in batches, and whole before its end is (jobs.md, section 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST = 16 * 1024  # characters of a line
MOST_LINES, MOST_CHARACTERS = 10_000, 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """One line: the run that wrote it, its number in that run from 1 on, seconds since the epoch, its level (INFO, WARN, ERROR ...)."""

    attempt: int
    number: int
    at: float
    level: str
    message: str


class Log:
    """The lines of one run, after those of earlier runs (`follow`). The limits hold for all of them together."""

    def __init__(self, attempt: int) -> None:
        self.lines = list[Line]()
        self._attempt, self._number, self._characters, self._full = attempt, 0, 0, False
        self._written = 0

    def follow(self, earlier: Sequence[Line]) -> None:
        """Earlier runs have logged these."""
        self.lines[:0] = earlier
        self._written += len(earlier)
        self._characters += sum(len(line.message) for line in earlier)

    def close(self) -> None:
        """The run is over: what it says from now on is not kept."""
        self._full = True

    def add(self, at: float, level: str, message: str) -> bool:
        """One line more, cut where it is too long. False when there are too many: one last line says so, and no other is kept."""
        if self._full:
            return False
        message = message[:LONGEST]
        self._full = len(self.lines) >= MOST_LINES or self._characters + len(message) > MOST_CHARACTERS
        if self._full:
            level, message = "WARN", "truncated: this request logs too much"
        self._number += 1
        self._characters += len(message)
        self.lines.append(Line(self._attempt, self._number, at, level, message))
        return True

    def unwritten(self) -> list[Line]:
        """The lines that are not known to be on disk."""
        return self.lines[self._written :]

    def wrote(self, lines: Sequence[Line]) -> None:
        """These, which `unwritten` gave last, are on disk."""
        self._written += len(lines)
