"""Decoders and towers for tests on a device: tiny in float32, and two layers of the 8B's full sizes in bfloat16."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.engine_shapes import CONFIG_8B, CONFIG_TINY, TOWER_8B, RandomWeights
from sensorium.engines.diffusion_vlm.config import VLMConfig, read_config
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.diffusion_vlm.torch_model import TorchModel


@dataclass(frozen=True)
class Shape:
    """A config in a number format, with the margin for confidences that another order of summing leaves."""

    raw: Mapping[str, Any]
    dtype: torch.dtype
    margin: float

    def config(self, folder: Path) -> VLMConfig:
        (folder / "config.json").write_text(json.dumps(self.raw), "utf-8")
        return read_config(folder)


SHAPES = {
    "tiny, float32": Shape(CONFIG_TINY, torch.float32, 1e-4),
    "tiny, bfloat16": Shape(CONFIG_TINY, torch.bfloat16, 0.05),
    "two layers of the 8B, bfloat16": Shape(
        CONFIG_8B | {"num_hidden_layers": 2, "vision_config": TOWER_8B | {"num_hidden_layers": 2}}, torch.bfloat16, 0.05
    ),
}


def model(config: VLMConfig, shape: Shape, device: torch.device, **options: Any) -> TorchModel:
    """A decoder with random weights and a few slots."""
    weights = RandomWeights(config, device, shape.dtype)
    return TorchModel(config, weights, device=device, dtype=shape.dtype, **{"slots": 4, "length": 2048, **options})


def tokens(config: VLMConfig, count: int, seed: int) -> list[int]:
    """Random ids without the mask."""
    ids = np.random.default_rng(seed).integers(0, config.vocab, count)
    return [int(id) if id != config.mask else 0 for id in ids]


def prompts(config: VLMConfig) -> list[Row]:
    """A prompt for each of four slots, of different lengths, one longer than a batch takes."""
    return [Row(slot, 0, tokens(config, count, slot), True, last=True) for slot, count in enumerate((40, 300, 7, 129))]


def mixed(config: VLMConfig) -> list[Row]:
    """A row of every phase after `prompts`: denoising, verifying, autoregression at a temperature, writing."""
    mask = config.mask
    half = [*tokens(config, 16, 10), *[mask] * 16]
    allowed = np.full((8, -(-config.vocab // 32)), 0b1010, np.uint32)
    return [
        Row(0, 40, half, False),
        Row(1, 300, tokens(config, 32, 11), True),
        Row(2, 7, tokens(config, 1, 12), True, last=True, temperature=0.8, seed=5),
        replace(Row(3, 129, [*tokens(config, 4, 13), *[mask] * 4], False), allowed=allowed),
    ]


def one_by_one(made: TorchModel, rows: Sequence[Row]) -> list[Answer]:
    """Each row in a forward of its own."""
    return [made.forward([row])[0] for row in rows]


def apart(some: Sequence[Answer], others: Sequence[Answer]) -> float:
    """The largest difference of confidences where both name the same id."""
    return max(float(np.abs(a[1] - b[1])[a[0] == b[0]].max(initial=0.0)) for a, b in zip(some, others, strict=True))


def left() -> int:
    """Bytes of the device in live tensors, when nothing lives that uses what the matrix library keeps for each stream."""
    gc.collect()
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_allocated())


def agreeing(some: Sequence[Answer], others: Sequence[Answer]) -> float:
    """The share of equal ids."""
    return float(np.concatenate([a[0] == b[0] for a, b in zip(some, others, strict=True)]).mean())
