"""True forwards with dictated outcomes: random weights are never confident, so how many tokens a step commits comes from here.

The backend behind it computes every row as it stands; only then its answers are replaced by what makes the real decoding programs commit
a given number of tokens per denoising step, or accept a given number per draft and verification, on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sensorium.engines.diffusion_vlm.rows import Answer, Backend, Row


class Scripted:
    """A Backend over another one. `pace` is the tokens per step or cycle; halves are made up by alternating, slot by slot.

    `mask` is the mask id; all answers are made of `word` and `other`, two ids that end nothing.
    """

    def __init__(self, backend: Backend, pace: float, mask: int, word: int, other: int) -> None:
        self._backend = backend
        self.pace, self.mask, self.word, self.other = pace, mask, word, other
        self._owed: dict[int, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(self, rows: Sequence[Row]) -> list[Answer]:
        """Compute the rows; answer as the script says."""
        answers = self._backend.forward(rows)
        return [self._dictated(row, len(answer[0])) for row, answer in zip(rows, answers, strict=True)]

    def _dictated(self, row: Row, count: int) -> Answer:
        best = np.full(count, self.word, np.int64)
        confidence = np.zeros(count, np.float32)
        if not row.causal and not row.draft:
            waiting = [place for place, token in enumerate(row.tokens) if token == self.mask]
            confidence[waiting[: self._due(row.slot)]] = 1.0
        elif row.causal and not row.last:
            self._verified(row, best)
        return best, confidence

    def _verified(self, row: Row, best: Any) -> None:
        """The causal head agrees with so much of the draft that one less than what is due is accepted, and adds a token of its own."""
        agreed = min(self._due(row.slot), len(row.tokens)) - 1
        best[: len(row.tokens) - 1] = row.tokens[1:]
        if agreed < len(row.tokens) - 1:
            best[agreed] = self.other if row.tokens[agreed + 1] == self.word else self.word

    def _due(self, slot: int) -> int:
        """The tokens of this step; what is left of the pace is carried over to the slot's next one."""
        owed = self._owed.get(slot, 0.0) + self.pace
        self._owed[slot] = owed - int(owed)
        return max(1, int(owed))
