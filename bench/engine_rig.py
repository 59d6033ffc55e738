"""What the stages of the engine's bench share: a device, a scale, a clock, a report, and models of that scale with full caches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.engine_clock import Clock
from bench.engine_report import Report
from bench.engine_shapes import BLOCK, WORDS, RandomWeights, Scale, write_prompts
from sensorium.engines.diffusion_vlm.config import VLMConfig, read_config
from sensorium.engines.diffusion_vlm.decode import PREFILL_CHUNK
from sensorium.engines.diffusion_vlm.rows import Row
from sensorium.engines.diffusion_vlm.torch_backend import TorchBackend
from sensorium.engines.diffusion_vlm.torch_model import TorchModel
from sensorium.engines.diffusion_vlm.torch_vision import TorchTower


@dataclass
class Rig:
    """One run of the bench. `folder` is for what an engine process is to open; `word` and `other` are ids that end nothing."""

    device: torch.device
    dtype: torch.dtype
    scale: Scale
    clock: Clock
    report: Report
    folder: Path
    word: int = WORDS[150]
    other: int = WORDS[151]

    @cached_property
    def prompts(self) -> Path:
        """A folder with config, tokenizer and template, but no weights."""
        return write_prompts(self.folder / "prompts", self.scale.raw)

    @cached_property
    def config(self) -> VLMConfig:
        """The config of the scale."""
        return read_config(self.prompts)

    @cached_property
    def weights(self) -> RandomWeights:
        """Random tensors, made when asked for."""
        return RandomWeights(self.config, self.device, self.dtype)

    @contextmanager
    def model(self, slots: int, length: int, **options: Any) -> Iterator[TorchModel]:
        """A decoder. It is gone from the device once the function that asked for it has returned: one to a function."""
        self.clock.forget_peak()
        held = [
            TorchModel(
                self.config, self.weights, device=self.device, dtype=self.dtype, slots=slots, length=length, together=True, **options
            )
        ]
        try:
            yield held[0]
        finally:
            held.clear()
            self.clock.forget_peak()

    @contextmanager
    def backend(self, slots: int, length: int, **options: Any) -> Iterator[TorchBackend]:
        """Decoder and tower behind the seam."""
        with self.model(slots, length, **options) as model:
            held = [TorchBackend(model, TorchTower(self.config, self.weights, device=self.device, dtype=self.dtype))]
            try:
                yield held[0]
            finally:
                held.clear()

    def tokens(self, count: int, seed: int = 0) -> list[int]:
        """Ordinary ids: neither the mask nor an end."""
        ids = np.random.default_rng(seed).integers(0, self.config.vocab, count)
        banned = {self.config.mask, *self.config.ends}
        return [self.word if int(id) in banned else int(id) for id in ids]

    def fill(self, model: TorchModel, slots: int, length: int) -> None:
        """Have the first `slots` slots hold the keys and values of `length` random tokens."""
        tokens = self.tokens(length)
        for begin in range(0, length, PREFILL_CHUNK):
            model.forward([Row(0, begin, tokens[begin : begin + PREFILL_CHUNK], True, last=True)])
        for slot in range(1, slots):
            model.copy(0, slot, length)

    def blocks(self, count: int, reach: int) -> list[Row]:
        """Denoising rows of the first `count` slots whose last position is the last below `reach`; half of each block is open."""
        start = reach - BLOCK
        rows = []
        for slot in range(count):
            known = self.tokens(BLOCK // 2, seed=slot + 1)
            rows.append(Row(slot, start, (*known, *[self.config.mask] * (BLOCK - len(known))), False))
        return rows

    def bytes_read(self, rows: Sequence[Row]) -> int:
        """Bytes that a forward of these denoising rows must read: decoder, head, and the keys and values that they see."""
        decoder = [name for name in self.weights if "vision_tower" not in name and "projector" not in name and "embed_tokens" not in name]
        weights = sum(self.weights.size(name) for name in decoder)
        seen = sum(row.start + len(row.tokens) for row in rows)
        return weights + seen * int(TorchModel.cache_bytes(self.config, self.dtype))


@contextmanager
def rig(device: torch.device, dtype: torch.dtype, scale: Scale, report: Report) -> Iterator[Rig]:
    """A rig whose folder is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Rig(device, dtype, scale, Clock(device), report, Path(folder))
