"""Thousands of random answers, in batches that mix everything, against a decoder without a cache that computes every pass from the start.

The oracle is float64, written plainly and apart from the engine (`plain`, `reference`). Where the engine's float32 takes another token, two
choices stood closer than float32 can tell: that is allowed for a few answers in a thousand, counted, and never where choices stand apart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from sensorium.engines.diffusion_vlm.config import Rope, VisionConfig, VLMConfig
from sensorium.engines.diffusion_vlm.decode import Decoding, Request, autoregress, diffuse, speculate, tick
from sensorium.engines.diffusion_vlm.schedule import Schedule
from sensorium.engines.diffusion_vlm.torch_model import TorchModel
from tests.engines.diffusion_vlm import plain
from tests.engines.diffusion_vlm.checkpoints import random_weights
from tests.engines.diffusion_vlm.reference import Result, SlowDecoder

BATCHES, WIDEST = 320, 6
CLOSE = 1e-4  # logits, confidences
LENGTHS, THRESHOLDS = (1, 2, 8, 32), (None, 0.0, 0.5, 0.9, 1.0)
VISION = VisionConfig(hidden=8, layers=1, heads=1, head_dim=8, ffn=8, patch=2, channels=3, activation="silu", theta=10000.0)
SHAPES = {
    "even": {"hidden": 32, "heads": 4, "kv_heads": 2, "head_dim": 8},
    "wide heads": {"hidden": 24, "heads": 6, "kv_heads": 3, "head_dim": 12},
    "one key head": {"hidden": 40, "heads": 5, "kv_heads": 1, "head_dim": 4},
    "no groups": {"hidden": 16, "heads": 2, "kv_heads": 2, "head_dim": 16},
}


def config_of(shape: str, vocab: int) -> VLMConfig:
    rope = Rope(theta=10000.0, factor=16.0, window=16, beta_fast=32.0, beta_slow=1.0, query_scale=0.1)
    sizes = SHAPES[shape] | {"layers": 2, "ffn": 48, "eps": 1e-5, "positions": 512, "block_size": 32, "merge": 2}
    return VLMConfig(**sizes, vocab=vocab, mask=1, ends=frozenset({2, 3}), rope=rope, vision=VISION)  # type: ignore[arg-type]


@dataclass
class Oracle:
    """The whole sequence anew for every pass; `apart` is the smallest distance between two choices it has seen."""

    weights: dict[str, np.ndarray]
    config: VLMConfig
    tau: float | None
    apart: float = field(default=math.inf)

    def sees(self, tokens: list[int], visible: np.ndarray) -> np.ndarray:
        logits = plain.decoder(self.weights, self.config, self.weights["encoder.embed_tokens.weight"][tokens], visible)
        free = np.delete(logits, self.config.mask, axis=1)
        best = np.sort(free, axis=1)[:, -2:]
        chance = 1 / np.exp(free - best[:, 1:]).sum(axis=1)
        gaps = [(best[:, 1] - best[:, 0]).min(), *np.diff(np.sort(chance)), *([] if self.tau is None else abs(chance - self.tau))]
        self.apart = min(self.apart, float(min(gaps)))
        return logits


@dataclass(frozen=True)
class Case:
    """One answer of a batch."""

    mode: str
    prompt: list[int]
    max_tokens: int
    length: int
    steps: int
    tau: float | None

    def program(self) -> Callable[[Decoding], Any]:
        if self.mode == "diffusion":
            schedule = Schedule(-(-self.max_tokens // self.length), self.length, self.steps)
            return partial(diffuse, schedule=schedule, threshold=self.tau)
        return autoregress if self.mode == "ar" else partial(speculate, length=self.length, threshold=self.tau or 0.0)

    def wanted(self, oracle: Oracle) -> Result:
        slow = SlowDecoder(oracle.sees, oracle.config.mask, oracle.config.ends)
        if self.mode == "diffusion":
            return slow.diffusion(self.prompt, self.max_tokens, self.steps, self.length, self.tau)
        if self.mode == "ar":
            return slow.ar(self.prompt, self.max_tokens)
        return slow.linear(self.prompt, self.max_tokens, self.length, self.tau or 0.0)


def a_case(rng: random.Random, vocab: int) -> Case:
    length = rng.choice(LENGTHS)
    max_tokens = rng.choice([1, 3, length, 2 * length + 3])
    return Case(
        mode=rng.choice(["diffusion", "diffusion", "ar", "linear"]),
        prompt=[rng.randrange(4, vocab) for _ in range(rng.choice([1, 2, 9, 30]))],
        max_tokens=min(max_tokens, 40),
        length=length,
        steps=rng.choice([1, 3, length, 2 * length]),
        tau=rng.choice(THRESHOLDS),
    )


def answers(model: TorchModel, config: VLMConfig, cases: Sequence[Case]) -> list[Result]:
    requests = [Request(case.prompt, case.max_tokens, config.mask, config.ends, slot) for slot, case in enumerate(cases)]
    decodings = [Decoding(request, case.program()) for request, case in zip(requests, cases, strict=True)]
    while any(decoding.row is not None for decoding in decodings):
        tick(decodings, model.forward)
    return [Result(one.tokens, one.counts.evaluations, str(one.finish)) for one in decodings]


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_random_batches_equal_the_oracle(shape: str, together: bool) -> None:
    rng = random.Random(f"{shape} {together}")
    made, unlike = 0, 0
    for batch in range(BATCHES // len(SHAPES)):
        vocab = rng.choice([7, 19, 64])
        config = config_of(shape, vocab)
        weights = random_weights(config, rng.randrange(1 << 30))
        weights["diffusion_head.weight"] *= rng.choice([0.3, 1.0, 4.0])
        tensors = {name: torch.from_numpy(values.copy()) for name, values in weights.items()}
        cases = [a_case(rng, vocab) for _ in range(rng.randint(1, WIDEST))]
        model = TorchModel(
            config, tensors, device=torch.device("cpu"), dtype=torch.float32, slots=len(cases), length=128, together=together
        )
        for case, got in zip(cases, answers(model, config, cases), strict=True):
            oracle = Oracle(weights, config, case.tau)
            wanted = case.wanted(oracle)
            made += 1
            if got != wanted:
                unlike += 1
                assert oracle.apart < CLOSE, (batch, case, got, wanted)
            if case.mode == "linear":
                alone = Case("ar", case.prompt, case.max_tokens, 1, 1, None)
                assert got.tokens == answers(model, config, [alone])[0].tokens or oracle.apart < CLOSE
    print(f"{made} answers, {unlike} unlike")
    assert made > 150
    assert unlike <= made * 0.01, f"{unlike} of {made} answers differ"
