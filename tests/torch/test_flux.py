"""FLUX against diffusers' own pipeline, on tiny random checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline

from sensorium.engines.drawing import Draw, Drawing, Step
from sensorium.engines.flux.engine import Flux
from sensorium.engines.orders import ModelOrder
from tests.torch import flux_folders

CUBE = "a red cube on a white table"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("flux")
    return {family: flux_folders.write(root / f"tiny-{family}", family) for family in ("schnell", "dev")}


def load(folder: Path, **options: Any) -> Flux:
    return Flux.load(folder, ModelOrder(path=str(folder), device="cpu", **options))


@pytest.mark.parametrize(("family", "guidance", "steps", "tokens"), [("schnell", 0.0, 3, 256), ("dev", 3.5, 6, 512)])
def test_the_picture_is_diffusers_own(folders: dict[str, Path], family: str, guidance: float, steps: int, tokens: int) -> None:
    oracle = FluxPipeline.from_pretrained(folders[family], dtype=torch.float32, local_files_only=True)
    picture = oracle(
        CUBE, width=320, height=256, num_inference_steps=steps, guidance_scale=guidance, max_sequence_length=tokens,
        generator=torch.Generator().manual_seed(7),
    ).images[0]  # fmt: skip
    model = load(folders[family])
    *told, drawing = model.steps(Draw(CUBE, 7, steps, width=320, height=256))
    assert told == [Step(number, steps) for number in range(1, steps + 1)]
    assert isinstance(drawing, Drawing)
    assert (drawing.seed, drawing.ignored) == (7, ())
    assert drawing.image.tobytes() == picture.tobytes()
