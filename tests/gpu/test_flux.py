"""FLUX on a GPU, with tiny random weights: the same seed draws the same picture, and an unloaded model leaves nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="needs diffusers: make oracles installs it")

from sensorium.engines.drawing import Draw
from sensorium.engines.flux.engine import Flux
from sensorium.engines.orders import ModelOrder
from tests.gpu.shapes import left
from tests.torch.flux_folders import write


def loaded(folder: Path, device: torch.device, compile: bool) -> Flux:
    return Flux.load(folder, ModelOrder(path=str(folder), device=str(device), dtype="float32", compile=compile))


@pytest.mark.parametrize(("family", "steps"), [("schnell", 2), ("dev", 5)])
def test_a_seed_draws_the_same_picture_again(tmp_path: Path, device: torch.device, family: str, steps: int) -> None:
    folder = write(tmp_path / "flux", family)  # type: ignore[arg-type]
    model = loaded(folder, device, compile=family == "schnell")
    wish = Draw("a red cube on a white table", width=256, height=256, seed=7, steps=steps)
    first, second = (np.asarray(model.draw(wish).image, np.int16) for _ in range(2))
    assert np.abs(first - second).max() <= 1
    other = np.asarray(model.draw(Draw("a red cube on a white table", width=256, height=256, seed=8, steps=steps)).image, np.int16)
    assert np.abs(first - other).max() > 1
    model.unload()


def test_an_unloaded_model_leaves_nothing(tmp_path: Path, device: torch.device) -> None:
    folder = write(tmp_path / "flux", "schnell")

    def used() -> int:
        model = loaded(folder, device, compile=False)
        model.draw(Draw("a blue ball", width=256, height=256, seed=1, steps=1))
        model.unload()
        del model
        return left()

    assert used() == used() == used()
