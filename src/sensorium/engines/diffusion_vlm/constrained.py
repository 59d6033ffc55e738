"""Decoding within a grammar: greedy among the allowed ids, several tokens per forward where the grammar or a draft knows them.

The answer is the one that asking the model token by token gives, each time for the best allowed id. It does not know schemas or text.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

import numpy as np

from sensorium.engines.diffusion_vlm.decode import Decoding, Program, prefill
from sensorium.engines.diffusion_vlm.rows import Answer, Bits, Row

AT_ONCE = 32  # forced tokens in one forward


class Grammar(Protocol):
    """What may come next, as `grammar.Grammar` tells it."""

    somewhere: Bits

    def allowed(self) -> Bits:
        """The ids [words] that may come next."""

    def path(self, tokens: Sequence[int]) -> tuple[int, Bits]:
        """How many of the tokens may follow, and the masks [n + 1, words] along them."""

    def forced(self, limit: int) -> list[int]:
        """Up to `limit` tokens that come next whatever the model says."""

    def commit(self, tokens: Sequence[int]) -> None:
        """Go on by these."""


def constrain(decoding: Decoding, grammar: Grammar, length: int) -> Program:
    """Linear self-speculation within a grammar, `length` tokens at a time; temperature must be 0.

    What is forced stands in the block already, the rest is drafted in both directions and cut where the grammar forbids it; the causal
    head's best allowed ids decide.
    """
    counts = decoding.counts
    counts.prefill_is_counted = True
    seed = yield from prefill(decoding, grammar.allowed())
    _commit(decoding, grammar, [seed])
    start = len(decoding.request.prompt)
    while not decoding.finish:
        known = [seed, *_force(decoding, grammar)]
        if decoding.finish:
            return
        guess = yield from _draft(decoding, grammar, start, known, length)
        count, masks = grammar.path(guess)
        counts.verify += 1
        unasked = np.repeat(grammar.somewhere[None], len(known) - 1, axis=0)
        best, _ = yield decoding.ask(start, known + guess[:count], causal=True, allowed=np.concatenate([unasked, masks]))
        said = best[len(known) - 1 :].tolist()
        agreed = next((place for place in range(count) if said[place] != guess[place]), count)
        _commit(decoding, grammar, said[: agreed + 1])
        seed = said[agreed]
        start += len(known) + agreed


def constrain_singly(decoding: Decoding, grammar: Grammar) -> Program:
    """Autoregression within a grammar: one token per forward, and those that are forced with it. Any temperature."""
    seed = yield from prefill(decoding, grammar.allowed())
    start = len(decoding.request.prompt)
    while True:
        decoding.counts.write += 1
        _commit(decoding, grammar, [seed])
        known = [seed, *_force(decoding, grammar)]
        if decoding.finish:
            return
        best, _ = yield decoding.ask(start, known, causal=True, last=True, allowed=grammar.allowed()[None])
        seed = int(best[-1])
        start += len(known)


def _commit(decoding: Decoding, grammar: Grammar, tokens: Sequence[int]) -> None:
    """Fix tokens, and have the grammar follow what was not cut off."""
    before = len(decoding.tokens)
    decoding.commit(tokens)
    grammar.commit(decoding.tokens[before:])


def _force(decoding: Decoding, grammar: Grammar) -> list[int]:
    """Fix what comes next whatever the model says, up to a forward's worth; the tokens."""
    if decoding.finish:
        return []
    tokens = grammar.forced(AT_ONCE - 1)
    _commit(decoding, grammar, tokens)
    return tokens


def _draft(decoding: Decoding, grammar: Grammar, start: int, known: list[int], length: int) -> Generator[Row, Answer, list[int]]:
    """Guesses for the rest of the block, none where it is full: the first is one that may follow, the others are text or an end."""
    free = length - len(known)
    if free <= 0:
        return []
    block = known + [decoding.request.mask] * free
    masks = np.repeat(grammar.somewhere[None], length, axis=0)
    masks[len(known)] = grammar.allowed()
    best, _ = yield decoding.ask(start, block, causal=False, draft=True, allowed=masks)
    decoding.counts.draft += 1
    return [int(id) for id in best[len(known) :]]
