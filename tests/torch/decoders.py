"""Tiny decoders in torch and in numpy on the same random weights, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.engines.diffusion_vlm.numpy_model import NumpyModel
from sensorium.engines.diffusion_vlm.torch_layers import SCRATCH
from sensorium.engines.diffusion_vlm.torch_model import TorchModel
from tests.engines.diffusion_vlm import plain

CPU = torch.device("cpu")


@dataclass
class Tiny:
    """One tiny checkpoint: its config and weights as they come out of the loader."""

    config: VLMConfig
    weights: Mapping[str, plain.Array]

    def tensors(self, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(values, dtype=dtype) for name, values in self.weights.items()}

    def torch(self, *, dtype: torch.dtype = torch.float32, slots: int = 4, length: int = 256, **options: Any) -> TorchModel:
        return TorchModel(self.config, self.tensors(dtype), device=CPU, dtype=dtype, slots=slots, length=length, **options)

    def numpy(self, slots: int = 4, length: int = 256, **options: Any) -> NumpyModel:
        model = NumpyModel(self.config, self.weights, **options)
        model.reserve(slots, length)
        return model

    def sees(self, tokens: list[int], visible: np.ndarray) -> plain.Array:
        """The slow model: the whole sequence and what sees what, to logits."""
        return plain.decoder(self.weights, self.config, self.weights["encoder.embed_tokens.weight"][tokens], visible)

    def tokens(self, count: int, seed: int = 0) -> list[int]:
        return np.random.default_rng(seed).integers(0, self.config.vocab, count).tolist()


def held(model: TorchModel) -> torch.Tensor:
    """The cache without its scratch places, [layers, 2, slots, kv_heads, positions, head_dim]."""
    return model.cache[..., SCRATCH:, :]
