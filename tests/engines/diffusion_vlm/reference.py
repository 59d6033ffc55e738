"""A slow decoder straight from the published rules: no cache, the whole sequence computed anew for every pass, explicit masks.

Written apart from the product's decoder and sharing nothing with it, so that agreement means something.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# (tokens of the whole sequence, visible[i, j]) -> logits for every position
Sees = Callable[[list[int], NDArray[np.bool_]], NDArray[np.floating]]


@dataclass
class Result:
    tokens: list[int]
    nfe: int
    finish: str


@dataclass
class SlowDecoder:
    """Greedy decoding over a full-sequence model."""

    sees: Sees
    mask: int
    ends: Collection[int]

    def run_pass(self, clean: list[int], block: list[int], causal: bool) -> tuple[list[int], list[float]]:
        """Best ids and confidences of the block's positions, after a causal clean part."""
        n, total = len(clean), len(clean) + len(block)
        visible = np.tril(np.ones((total, total), bool))
        if not causal:
            visible[n:, n:] = True
        logits = np.array(self.sees(clean + block, visible)[n:], np.float64)
        logits[:, self.mask] = -np.inf
        best = [int(np.flatnonzero(line == line.max())[0]) for line in logits]
        probability = np.exp(logits - logits.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        return best, [float(np.float32(line[k])) for line, k in zip(probability, best, strict=True)]

    def finish(self, out: list[int], max_tokens: int, nfe: int) -> Result:
        out = out[:max_tokens]
        for place, token in enumerate(out):
            if token in self.ends:
                return Result(out[: place + 1], nfe, "stop")
        return Result(out, nfe, "length")

    def diffusion(self, prompt: list[int], max_tokens: int, steps_per_block: int, length: int, tau: float | None) -> Result:
        clean, out, nfe = list(prompt), [], 0
        seed = self.run_pass([], clean, causal=True)[0][-1]
        share = [(length - 1) // steps_per_block + (i < (length - 1) % steps_per_block) for i in range(steps_per_block)]
        for _ in range(math.ceil(max_tokens / length)):
            block = [seed] + [self.mask] * (length - 1)
            for i in range(steps_per_block):
                hidden = [p for p in range(length) if block[p] == self.mask]
                if len(hidden) == 0:
                    break
                best, conf = self.run_pass(clean, block, causal=False)
                nfe += 1
                ranked = sorted(hidden, key=lambda p: (-conf[p], p))
                if i + 1 == steps_per_block:
                    take = hidden
                elif tau is None:
                    take = ranked[: share[i]]
                else:
                    take = [p for p in hidden if np.float32(conf[p]) >= np.float32(tau)] or ranked[:1]
                for p in take:
                    block[p] = best[p]
                ends = [p for p in range(length) if block[p] in self.ends]
                if ends and self.mask not in block[: ends[0]]:
                    break
            best, _ = self.run_pass(clean, block, causal=True)
            nfe += 1
            seed = best[-1]
            clean += block
            out += block
            if any(token in self.ends for token in block):
                break
        return self.finish(out, max_tokens, nfe)

    def ar(self, prompt: list[int], max_tokens: int) -> Result:
        out: list[int] = []
        while len(out) < max_tokens and not (out and out[-1] in self.ends):
            out.append(self.run_pass([], prompt + out, causal=True)[0][-1])
        return self.finish(out, max_tokens, len(out))

    def linear(self, prompt: list[int], max_tokens: int, length: int, tau: float = 0.0) -> Result:
        clean, nfe = list(prompt), 1
        out = [self.run_pass([], clean, causal=True)[0][-1]]
        while out[-1] not in self.ends and len(out) < max_tokens:
            block = [out[-1]] + [self.mask] * (length - 1)
            while self.mask in block:
                best, conf = self.run_pass(clean, block, causal=False)
                nfe += 1
                hidden = [p for p in range(length) if block[p] == self.mask]
                top = min(hidden, key=lambda p: (-conf[p], p))
                for p in hidden:
                    if tau == 0 or p == top or np.float32(conf[p]) >= np.float32(tau):
                        block[p] = best[p]
            said, _ = self.run_pass(clean, block, causal=True)
            nfe += 1
            n = 0
            while n + 1 < length and said[n] == block[n + 1]:
                n += 1
            clean += block[: n + 1]
            accepted = said[: n + 1]
            for place, token in enumerate(accepted):
                if token in self.ends:
                    accepted = accepted[: place + 1]
                    break
            out += accepted
        return self.finish(out, max_tokens, nfe)
