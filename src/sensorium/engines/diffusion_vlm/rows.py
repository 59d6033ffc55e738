"""The seam between decoding and a model: rows of tokens in, best ids and their confidences out.

A row sees key j if j < start, or if j lies in the row and the row is not causal or j is not later than the asking position.
A model writes the keys and values of every row at start + i; whether they count is the caller's decision, which never reads above
the start it asks for. Causal position i predicts the token of position i + 1, bidirectional position i its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Features:
    """Projector rows [n, hidden] that replace the embeddings at the positions `at` (counted within the row's tokens)."""

    at: Sequence[int]
    rows: Floats


@dataclass(frozen=True, slots=True)
class Row:
    """One request's share of a forward.

    `last` asks for the answer of the last position only (one entry instead of one per token). At `temperature` > 0 the best id is drawn
    with noise that depends on `seed` and the predicted position alone; confidences are always noise-free. `draft` marks speculative
    passes, for models with a draft adapter.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    causal: bool
    last: bool = False
    temperature: float = 0.0
    seed: int = 0
    draft: bool = False
    features: Features | None = None


Answer = tuple[Ids, Floats]
Forward = Callable[[Sequence[Row]], Sequence[Answer]]
