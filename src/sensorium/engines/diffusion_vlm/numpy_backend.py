"""The numpy decoder and tower behind the row seam: one slot that grows as it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.engines.diffusion_vlm.numpy_layers import Floats
from sensorium.engines.diffusion_vlm.numpy_model import NumpyModel
from sensorium.engines.diffusion_vlm.numpy_vision import Tower
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.diffusion_vlm.weights import CONVERSIONS, plan


class NumpyBackend:
    """`rows.Backend` on the CPU, in float32."""

    transfer_s = 0.0

    def __init__(self, model: NumpyModel, tower: Tower, slots: int = 1) -> None:
        self.slots, self.length = slots, model.config.positions
        self._model, self._tower = model, tower
        model.reserve(slots, 1)

    @classmethod
    def load(cls, folder: Path, config: VLMConfig) -> NumpyBackend:
        """Read the weights. Raises SettingsError that lists everything missing, unexpected or mis-shaped."""
        tensors = checkpoint.load_finite(folder, plan(config), foreign=CONVERSIONS)
        return cls(NumpyModel(config, tensors), Tower(config, tensors))

    def reserve(self, length: int) -> None:
        self._model.reserve(self.slots, length)

    def forward(self, rows: Sequence[Row]) -> list[Answer]:
        return self._model.forward(rows)

    def features(self, pixels: Floats) -> Floats:
        return self._tower.features(pixels)

    def ready(self, features: object) -> bool:
        return True

    def join(self, parts: Sequence[Floats]) -> Floats:
        return np.concatenate(parts)

    def copy(self, source: int, target: int, length: int) -> None:
        self._model.cache[target, :, :, :, :length] = self._model.cache[source, :, :, :, :length]
