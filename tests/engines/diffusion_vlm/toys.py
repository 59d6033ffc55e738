"""Small exact stand-ins for the model behind the row seam, each both cached (`forward`) and uncached (`sees`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sensorium.engines.diffusion_vlm.rows import Answer, Bits, Row

Words = NDArray[np.uint64]


def mix(x: Words) -> Words:
    """A bijective scramble of 64-bit words (splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def select(logits: NDArray[np.float64], mask: int, last: bool, allowed: Bits | None = None) -> Answer:
    """What a model answers: best id with the mask banned, and all that is not allowed; its probability."""
    logits = logits[-1:].copy() if last else logits.copy()
    logits[:, mask] = -np.inf
    if allowed is not None:
        assert allowed.shape == (len(logits), -(-logits.shape[1] // 32)) and allowed.dtype == np.uint32
        place = np.arange(logits.shape[1])
        logits[(allowed[:, place // 32] >> (place % 32).astype(np.uint32) & 1) == 0] = -np.inf
    best = logits.argmax(1)
    probability = np.exp(logits - logits.max(1, keepdims=True))
    return best, (probability[np.arange(len(best)), best] / probability.sum(1)).astype(np.float32)


@dataclass
class HashModel:
    """Two "layers" of hashing: what a position says depends on every position it sees and on what those saw when they were written.

    So a stale, missing or bidirectionally written cache entry changes the answer. `gain` 0 makes all logits equal, a large one makes
    confidences approach 1; `end_bias` makes ends likely.
    """

    seed: int = 0
    vocab: int = 12
    mask: int = 1
    ends: frozenset[int] = frozenset({2})
    gain: float = 6.0
    end_bias: float = 0.0
    passes: int = 0
    cache: dict[int, NDArray[np.uint64]] = field(default_factory=dict)

    def first(self, tokens: Sequence[int], start: int) -> Words:
        position = np.arange(start, start + len(tokens)).astype(np.uint64)
        return mix(np.array(tokens, np.uint64) * np.uint64(1000003) + position * np.uint64(7919) + np.uint64(self.seed))

    def logits(self, state: Words) -> NDArray[np.float64]:
        words = mix(state[:, None] + np.arange(1, self.vocab + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        out = (words >> np.uint64(11)).astype(np.float64) / 2.0**53 * self.gain
        out[:, list(self.ends)] += self.end_bias
        return out

    def sees(self, tokens: list[int], visible: NDArray[np.bool_]) -> NDArray[np.float64]:
        one = self.first(tokens, 0)
        look = visible.astype(np.uint64)
        two = mix(one + look @ one)
        return self.logits(mix(two * np.uint64(3) + look @ mix(two)))

    def forward(self, rows: Sequence[Row]) -> list[Answer]:
        self.passes += 1
        return [self.answer(row) for row in rows]

    def answer(self, row: Row) -> Answer:
        store = self.cache.setdefault(row.slot, mix(np.arange(8192, dtype=np.uint64).reshape(2, -1)))  # noise: reading it would show
        n, stop = len(row.tokens), row.start + len(row.tokens)
        look = np.ones((n, stop), np.uint64)
        if row.causal:
            look[:, row.start :] = np.tril(np.ones((n, n), np.uint64))
        store[0, row.start : stop] = self.first(row.tokens, row.start)
        one = store[0, row.start : stop]
        store[1, row.start : stop] = mix(one + look @ store[0, :stop])
        two = store[1, row.start : stop]
        return select(self.logits(mix(two * np.uint64(3) + look @ mix(store[1, :stop]))), self.mask, row.last, row.allowed)


@dataclass
class ScriptModel:
    """Predicts token script[p] for answer position p, whatever it sees; each position's confidence is its own, fixed value.

    `early`, if given, holds what bidirectional passes say instead: a draft that verification may correct.
    """

    prompt: int
    script: Sequence[int]
    vocab: int = 12
    mask: int = 1
    ends: frozenset[int] = frozenset({2})
    early: Sequence[int] | None = None
    sharp: float = 4.0

    def logits(self, start: int, count: int, causal: bool) -> NDArray[np.float64]:
        out = np.zeros((count, self.vocab))
        for place in range(count):
            at = start + place + causal - self.prompt
            said = self.script if causal or self.early is None else self.early
            token = said[at] if 0 <= at < len(said) else 3
            out[place, token] = self.sharp * (1 + (at * 7919 % 13) / 13)
        return out

    def sees(self, tokens: list[int], visible: NDArray[np.bool_]) -> NDArray[np.float64]:
        causal = np.array([not visible[place, place + 1 :].any() for place in range(len(tokens))])
        causal[-1] = len(tokens) < 2 or not visible[-2, -1]
        both = [self.logits(0, len(tokens), flag) for flag in (False, True)]
        return np.where(causal[:, None], both[1], both[0])

    def forward(self, rows: Sequence[Row]) -> list[Answer]:
        return [select(self.logits(row.start, len(row.tokens), row.causal), self.mask, row.last, row.allowed) for row in rows]
