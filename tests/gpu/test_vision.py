"""The picture tower on a GPU: beside the decoder in a stream of its own it gives what it gives alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.engine_shapes import CONFIG_8B, CONFIG_TINY, TOWER_8B, RandomWeights
from sensorium.engines.diffusion_vlm.config import VLMConfig, read_config
from sensorium.engines.diffusion_vlm.numpy_vision import Tower
from sensorium.engines.diffusion_vlm.rows import Features, Row
from sensorium.engines.diffusion_vlm.torch_backend import Look, TorchBackend
from sensorium.engines.diffusion_vlm.torch_model import TorchModel
from sensorium.engines.diffusion_vlm.torch_vision import TorchTower
from tests.gpu.shapes import tokens

SIZES = [(1, 1), (1, 7), (5, 3), (25, 25)]


def made(folder: Path, raw: dict[str, object], device: torch.device, dtype: torch.dtype) -> tuple[VLMConfig, TorchTower, TorchBackend]:
    (folder / "config.json").write_text(json.dumps(raw), "utf-8")
    config = read_config(folder)
    weights = RandomWeights(config, device, dtype)
    tower = TorchTower(config, weights, device=device, dtype=dtype)
    model = TorchModel(config, weights, device=device, dtype=dtype, slots=2, length=2048)
    return config, tower, TorchBackend(model, tower)


def pixels(config: VLMConfig, size: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, size[0] * config.cell, size[1] * config.cell), np.float32)


def test_float32_equals_numpy(tmp_path: Path, device: torch.device) -> None:
    config, tower, _ = made(tmp_path, dict(CONFIG_TINY), device, torch.float32)
    slow = Tower(config, {name: values.cpu().numpy() for name, values in RandomWeights(config, device, torch.float32).items()})
    for size in SIZES:
        shown = pixels(config, size, 0)
        wanted = slow.features(shown)
        found = tower.features(torch.from_numpy(shown).to(device)).cpu().numpy()
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("wide", [False, True])
def test_beside_the_decoder_it_gives_the_same(tmp_path: Path, device: torch.device, wide: bool) -> None:
    """Forwards run while each picture is looked at; the result is used at once, without waiting for the device."""
    raw = CONFIG_8B | {"num_hidden_layers": 1, "vision_config": TOWER_8B | {"num_hidden_layers": 4}} if wide else dict(CONFIG_TINY)
    config, tower, backend = made(tmp_path, raw, device, torch.bfloat16 if wide else torch.float32)
    busy = Row(1, 0, tokens(config, 64, 0), True, last=True)
    backend.forward([busy])
    for number in range(20):
        shown = pixels(config, SIZES[number % len(SIZES)], number)
        begun = backend.features(shown)
        backend.forward([busy])
        rows = backend.join([begun])
        count = len(rows)
        row = Row(0, 0, tokens(config, count + 2, 1), True, last=True, features=Features(range(1, count + 1), rows))
        answer = backend.forward([row, busy])[0]
        quiet = tower.features(torch.from_numpy(shown).to(device))
        torch.cuda.synchronize()
        assert backend.ready(begun)
        assert torch.allclose(rows.rows, quiet, atol=1e-3 * float(quiet.abs().max()))
        wanted = backend.forward([Row(0, 0, row.tokens, True, last=True, features=Features(range(1, count + 1), Look(quiet, None)))])[0]
        assert np.array_equal(answer[0], wanted[0])
        assert np.allclose(answer[1], wanted[1], atol=1e-3)
