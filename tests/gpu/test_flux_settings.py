"""FLUX's settings on a GPU, with tiny random weights: the same picture or nearly so, and a model that goes on after a cancel."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="needs diffusers: make oracles installs it")

from sensorium.engines.drawing import Draw
from sensorium.engines.flux.engine import Flux
from sensorium.engines.flux.fitting import QUANTISERS
from sensorium.engines.orders import ModelOrder
from sensorium.errors import Cancelled
from tests.torch.flux_folders import write

WISH = Draw("a red cube on a white table", 7, 2, width=256, height=256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("flux") / "flux", "schnell")


def load(folder: Path, device: torch.device, **options: Any) -> Flux:
    return Flux.load(folder, ModelOrder(path=str(folder), device=str(device), **{"dtype": "float32", "compile": False, **options}))


def pixels(model: Flux) -> Any:
    return np.asarray(model.draw(WISH).image, np.int16)


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloaded_weights_draw_the_same_picture_also_after_a_cancel(folder: Path, device: torch.device, offload: str) -> None:
    plain = load(folder, device)
    expected = pixels(plain)
    plain.unload()
    model = load(folder, device, offload=offload)
    assert np.abs(pixels(model) - expected).max() <= 2
    asked = iter([False, False, False, True])
    with pytest.raises(Cancelled):
        model.draw(Draw(WISH.prompt, 7, 4, width=256, height=256), lambda: next(asked, True))
    assert np.abs(pixels(model) - expected).max() <= 2
    model.unload()


@pytest.mark.parametrize(
    ("options", "far"),
    [
        ({"quant": "fp8"}, 5.0),
        ({"quant": "fp8", "offload": "group"}, 5.0),
        ({"quant": "int8", "dtype": "bfloat16"}, 12.0),
        ({"quant": "int8", "dtype": "bfloat16", "offload": "model"}, 12.0),
        ({"quant": "nf4", "dtype": "bfloat16"}, 40.0),
        ({"quant": "nf4", "dtype": "bfloat16", "offload": "model"}, 40.0),
    ],
)
def test_weights_in_fewer_bits_draw_nearly_the_same_picture(
    folder: Path, device: torch.device, options: dict[str, str], far: float
) -> None:
    library = QUANTISERS.get(options["quant"])
    if library is not None and find_spec(library) is None:
        pytest.skip(f"needs {library}: pip install {library}")
    plain, model = load(folder, device), load(folder, device, **options)
    assert 0 < np.abs(pixels(plain) - pixels(model)).mean() < far
    assert model.bytes < plain.bytes
    plain.unload()
    model.unload()


def test_a_picture_too_large_for_the_device_is_told_and_the_model_goes_on(folder: Path, device: torch.device) -> None:
    model = load(folder, device)
    expected = pixels(model)
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved(device) + (16 << 20)) / whole), device)
    try:
        with pytest.raises(Exception, match="too little free memory") as caught:
            model.draw(Draw(WISH.prompt, 7, 1, width=2048, height=1024))
        assert getattr(caught.value, "code", None) == "out_of_memory"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert np.abs(pixels(model) - expected).max() <= 1
    model.unload()
