"""The seam between decoding and a model: rows of tokens in, best ids and their confidences out.

A row sees key j if j < start, or if j lies in the row and the row is not causal or j is not later than the asking position.
A model writes the keys and values of every row at start + i; whether they count is the caller's decision, which never reads above
the start it asks for. Causal position i predicts the token of position i + 1, bidirectional position i its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Bits = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Features:
    """Projector rows [n, hidden], as `Backend.features` gave them, that replace the embeddings at the positions `at`, counted within the
    row's tokens."""

    at: Sequence[int]
    rows: Any  # an array of whatever computes the rows


@dataclass(frozen=True, slots=True)
class Row:
    """One request's share of a forward.

    `last` asks for the answer of the last position only (one entry instead of one per token). At `temperature` > 0 the best id is drawn
    with noise that depends on `seed` and the predicted position alone; confidences are always noise-free. `draft` marks speculative
    passes, for models with a draft adapter. `allowed` [answers, ceil(vocab / 32)] has a bit for every id that may be the best at each
    answer, the lowest bit of a word first; confidences are then among those ids.
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
    allowed: Bits | None = None


Answer = tuple[Ids, Floats]
Forward = Callable[[Sequence[Row]], Sequence[Answer]]


class Backend(Protocol):
    """What computes rows and looks at pictures: `slots` answers side by side, each of up to `length` positions.

    `transfer_s` sums up the seconds in which pictures were taken to the device.
    """

    slots: int
    length: int
    transfer_s: float

    def reserve(self, length: int) -> None:
        """Positions up to `length` are going to be used in some slot. What is written stays."""

    def forward(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Answer rows of different slots, of any lengths and phases."""

    def features(self, pixels: Floats) -> Any:
        """Begin to look at a picture [3, height, width]; its projector rows, perhaps not computed yet."""

    def ready(self, features: Any) -> bool:
        """Whether a row with these features would not wait for them."""

    def join(self, parts: Sequence[Any]) -> Any:
        """The projector rows of several pictures as one array that can be sliced."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Have slot `target` begin with the first `length` positions of slot `source`."""
