"""The model under examination, whichever way it is computed: rows to logits and answers, pictures to features, as numpy arrays.

It does not judge anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.engines.diffusion_vlm.numpy_layers import Floats
from sensorium.engines.diffusion_vlm.numpy_model import NumpyModel
from sensorium.engines.diffusion_vlm.numpy_vision import Tower
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.diffusion_vlm.weights import CONVERSIONS, plan


@dataclass(frozen=True, slots=True)
class Rules:
    """Which of the deviations from the reference are on: the mask is never an answer, confidences are float32."""

    ban_mask: bool = True
    float32_confidence: bool = True


ENGINE = Rules()


class Subject(Protocol):
    """One loaded checkpoint. `dtype` is what the decoder computes in, `place` where, in words."""

    config: VLMConfig
    dtype: str
    place: str

    def obey(self, rules: Rules) -> None:
        """Answer by these rules from now on; what the slot holds may be lost."""

    def forward(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Answers of rows in slot 0, as the engine computes them."""

    def logits(self, row: Row) -> Floats:
        """float32 logits of the row's positions; keys and values are written."""

    def features(self, pixels: Floats) -> Any:
        """Projector rows as the decoder takes them."""

    def exact_tower(self, pixels: Floats) -> tuple[Floats, Floats]:
        """What the tower and the projector give in float32: [patches, width], [cells, hidden]."""


class NumpySubject:
    """The engine of a default install, in float32."""

    dtype, place = "float32", "numpy"

    def __init__(self, folder: Path, config: VLMConfig, length: int) -> None:
        self.config = config
        tensors = checkpoint.load(folder, plan(config), foreign=CONVERSIONS)
        self._tower = Tower(config, tensors)
        self._model = NumpyModel(config, tensors)
        self._model.reserve(1, length)

    def obey(self, rules: Rules) -> None:
        self._model.ban_mask, self._model.float32_confidence = rules.ban_mask, rules.float32_confidence

    def forward(self, rows: Sequence[Row]) -> Sequence[Answer]:
        return self._model.forward(rows)

    def logits(self, row: Row) -> Floats:
        return self._model.logits(row)

    def features(self, pixels: Floats) -> Any:
        return self._tower.features(pixels)

    def exact_tower(self, pixels: Floats) -> tuple[Floats, Floats]:
        seen = self._tower.encode(pixels)
        patch = self.config.vision.patch
        return seen.copy(), self._tower.project(seen, pixels.shape[1] // patch, pixels.shape[2] // patch)


def as_floats(values: Any) -> NDArray[np.float32]:
    """An array of either kind as numpy float32."""
    return np.asarray(values.float().cpu() if hasattr(values, "cpu") else values, np.float32)
