"""The model under examination, computed by torch: the decoder and the tower of the engine, without graphs and compiled parts.

It does not judge anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sensorium.engines import torch_weights
from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.engines.diffusion_vlm.numpy_layers import Floats
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.diffusion_vlm.torch_adapter import FOLDER, load_adapter
from sensorium.engines.diffusion_vlm.torch_model import TorchModel
from sensorium.engines.diffusion_vlm.torch_vision import PROJECTOR, TOWER, TorchTower
from sensorium.engines.diffusion_vlm.verification.subjects import ENGINE, Rules, as_floats
from sensorium.engines.diffusion_vlm.weights import CONVERSIONS, plan


class TorchSubject:
    """One checkpoint on a torch device. The picture tower that is compared with dumps is made in float32, on the same device."""

    def __init__(self, folder: Path, config: VLMConfig, length: int, device: Any, dtype: Any) -> None:
        self.config, self._folder, self._length = config, folder, length
        self._device, self._format = device, dtype
        self.place, self.dtype = str(device), str(dtype).removeprefix("torch.")
        weights = self._load()
        self._seeing = {name: tensor for name, tensor in weights.items() if name.startswith((TOWER, PROJECTOR))}
        self._tower = TorchTower(config, self._seeing, device=device, dtype=dtype)
        self._adapter = load_adapter(folder / FOLDER, config) if (folder / FOLDER).is_dir() else None
        self._rules = ENGINE
        self._model = self._made(weights)

    def _load(self) -> dict[str, Any]:
        """All tensors, those that see in float32."""

        def number_format(name: str) -> Any:
            return torch.float32 if name.startswith((TOWER, PROJECTOR)) else self._format

        return torch_weights.load(self._folder, plan(self.config), device=self._device, dtype=number_format, foreign=CONVERSIONS)

    def _made(self, weights: dict[str, Any]) -> Any:
        return TorchModel(
            self.config,
            weights,
            device=self._device,
            dtype=self._format,
            slots=1,
            length=self._length,
            graphs=False,
            compile=False,
            adapter=self._adapter,
            ban_mask=self._rules.ban_mask,
            float32_confidence=self._rules.float32_confidence,
        )

    def obey(self, rules: Rules) -> None:
        """Loads the decoder again: it keeps its rules and has taken its weights."""
        if rules != self._rules:
            self._rules, self._model = rules, None
            self._model = self._made(self._load())

    def forward(self, rows: Sequence[Row]) -> Sequence[Answer]:
        answers: Sequence[Answer] = self._model.forward(rows)
        return answers

    def logits(self, row: Row) -> Floats:
        return as_floats(self._model.logits(row))

    def features(self, pixels: Floats) -> Any:
        return self._tower.features(torch.from_numpy(pixels).to(self._device))

    def exact_tower(self, pixels: Floats) -> tuple[Floats, Floats]:
        tower = TorchTower(self.config, self._seeing, device=self._device, dtype=torch.float32)
        seen = tower.encode(torch.from_numpy(pixels).to(self._device))
        patch = self.config.vision.patch
        return as_floats(seen), as_floats(tower.project(seen, pixels.shape[1] // patch, pixels.shape[2] // patch))
