"""The torch tower and projector against numpy's and against transformers' Pixtral and Mistral3, on odd shapes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Mistral3Config, PixtralVisionConfig, PixtralVisionModel
from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector

import sensorium
from sensorium.engines import torch_weights
from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm import torch_vision
from sensorium.engines.diffusion_vlm.config import VisionConfig, VLMConfig, read_config
from sensorium.engines.diffusion_vlm.numpy_vision import Tower
from sensorium.engines.diffusion_vlm.torch_vision import PROJECTOR, TOWER, TorchTower
from sensorium.engines.diffusion_vlm.weights import plan
from tests.engines.diffusion_vlm.checkpoints import OFFICIAL_IDS, config_of, random_weights, write_checkpoint

CPU = torch.device("cpu")
SHIPPED = Path(sensorium.__file__).parent / "models" / "scenes-vlm"
GRIDS = [(1, 1), (1, 7), (5, 1), (3, 4)]
SEEDS = range(8)


def read(folder: Path, text: dict[str, Any], vision: dict[str, Any]) -> VLMConfig:
    (folder / "config.json").write_text(json.dumps(config_of(OFFICIAL_IDS, 160, text, vision)))
    return read_config(folder)


def odd(folder: Path, seed: int) -> VLMConfig:
    """A config whose numbers fit each other and nothing else; head_dim as hidden / heads, the only one that transformers computes."""
    rng = np.random.default_rng(seed)
    heads, head_dim = int(rng.integers(1, 5)), 4 * int(rng.integers(1, 7))
    vision = {
        "hidden_size": heads * head_dim,
        "num_attention_heads": heads,
        "head_dim": head_dim,
        "num_hidden_layers": int(rng.integers(1, 4)),
        "intermediate_size": int(rng.integers(5, 70)),
        "patch_size": int(rng.integers(1, 8)),
        "hidden_act": ("silu", "gelu")[seed % 2],
        "rope_parameters": {"rope_type": "default", "rope_theta": float(rng.choice([100.0, 10000.0]))},
    }
    text = {
        "spatial_merge_size": int(rng.integers(1, 4)),
        "hidden_size": int(rng.integers(20, 60)),
        "rms_norm_eps": (1e-5, 1e-2)[seed // 2 % 2],
    }
    return read(folder, text, vision)


def picture(config: VLMConfig, cells: tuple[int, int], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, *(side * config.cell for side in cells))).astype(np.float32)


def tensors(weights: dict[str, np.ndarray], prefix: str = "") -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): torch.from_numpy(values) for name, values in weights.items() if name.startswith(prefix)}


def tower(config: VLMConfig, weights: dict[str, np.ndarray], dtype: torch.dtype = torch.float32) -> TorchTower:
    return TorchTower(config, tensors(weights), device=CPU, dtype=dtype)


def distance(got: torch.Tensor, wanted: Any) -> float:
    wanted = torch.as_tensor(wanted)
    assert got.shape == wanted.shape
    return float((got.float() - wanted).abs().max() / wanted.abs().max())


def official(config: VLMConfig, weights: dict[str, np.ndarray]) -> tuple[PixtralVisionModel, Mistral3MultiModalProjector]:
    vision = PixtralVisionConfig(
        hidden_size=config.vision.hidden,
        num_hidden_layers=config.vision.layers,
        num_attention_heads=config.vision.heads,
        intermediate_size=config.vision.ffn,
        patch_size=config.vision.patch,
        image_size=64 * config.vision.patch,
        hidden_act=config.vision.activation,
        rope_parameters={"rope_theta": config.vision.theta, "rope_type": "axial"},
        attn_implementation="eager",
    )
    text = {"model_type": "ministral3", "hidden_size": config.hidden, "rms_norm_eps": config.eps}
    both = Mistral3Config(vision_config=vision, text_config=text, spatial_merge_size=config.merge, multimodal_projector_bias=False)
    model, projector = PixtralVisionModel(vision).eval(), Mistral3MultiModalProjector(both).eval()
    model.load_state_dict(tensors(weights, TOWER))
    projector.load_state_dict(tensors(weights, PROJECTOR))
    return model, projector


@pytest.mark.parametrize("cells", GRIDS, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_pictures_look_as_they_do_to_transformers(tmp_path: Path, seed: int, cells: tuple[int, int]) -> None:
    config = odd(tmp_path, seed)
    weights, pixels = random_weights(config, seed), picture(config, cells)
    model, projector = official(config, weights)
    size = torch.tensor([pixels.shape[1:]])
    with torch.no_grad():
        seen = model(torch.from_numpy(pixels)[None], image_sizes=size).last_hidden_state.squeeze(0)
        wanted = projector(seen, size)
    ours = tower(config, weights)
    assert distance(ours.encode(torch.from_numpy(pixels)), seen) < 1e-4
    assert distance(ours.features(torch.from_numpy(pixels)), wanted) < 1e-4


@pytest.mark.parametrize("cells", GRIDS, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_pictures_look_as_they_do_to_numpy(tmp_path: Path, seed: int, cells: tuple[int, int]) -> None:
    """Also with heads that do not add up to the width."""
    config = odd(tmp_path, seed)
    config = replace(config, vision=replace(config.vision, head_dim=4 * (seed + 1), heads=1 + seed % 3))
    weights, pixels = random_weights(config, seed), picture(config, cells)
    ours, numpys = tower(config, weights), Tower(config, weights)
    assert distance(ours.encode(torch.from_numpy(pixels)), numpys.encode(pixels)) < 1e-4
    assert distance(ours.features(torch.from_numpy(pixels)), numpys.features(pixels)) < 1e-4


@pytest.mark.parametrize("folder", ["shipped", "wide_heads", "int8"])
def test_checkpoints_look_the_same(tmp_path: Path, folder: str) -> None:
    path = SHIPPED if folder == "shipped" else write_checkpoint(tmp_path, folder)
    config = read_config(path)
    loaded = torch_weights.load(path, plan(config), device=CPU, dtype=torch.float32)
    ours, pixels = TorchTower(config, loaded, device=CPU, dtype=torch.float32), picture(config, (4, 4))
    wanted = Tower(config, checkpoint.load(path, plan(config))).features(pixels)
    assert distance(ours.features(torch.from_numpy(pixels)), wanted) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_stays_near(tmp_path: Path, dtype: torch.dtype) -> None:
    """Coarse on purpose: it is to catch a float32 island that is missing or a table in the wrong format, not to measure rounding."""
    config = odd(tmp_path, 3)
    weights, pixels = random_weights(config, 3), picture(config, (3, 4))
    got = tower(config, weights, dtype).features(torch.from_numpy(pixels))
    assert got.dtype == dtype
    assert 0 < distance(got, Tower(config, weights).features(pixels)) < (0.06 if dtype == torch.bfloat16 else 0.01)


def test_large_activations_survive_half_precision(tmp_path: Path) -> None:
    """Rows of size 3000, whose squares float16 cannot hold, come out of a norm as they should."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32))
    wanted = torch_vision.normalise(x, torch.ones(64), 1e-5)
    assert distance(torch_vision.normalise((x * 3000).half(), torch.ones(64).half(), 1e-5), wanted) < 2e-3


def test_grids_beyond_the_first_tables(tmp_path: Path) -> None:
    config = odd(tmp_path, 0)
    weights = random_weights(config, 0)
    cells = (1, torch_vision.SIDE // config.merge + 3)
    pixels = picture(config, cells)
    assert distance(tower(config, weights).features(torch.from_numpy(pixels)), Tower(config, weights).features(pixels)) < 1e-4


def test_attention_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = torch.from_numpy(np.random.default_rng(5).normal(size=(3, 2, 37, 8)).astype(np.float32))
    whole = torch_vision.attend(query, key, value)
    scores = torch.softmax(query @ key.transpose(1, 2) / 8**0.5, dim=2)
    assert distance(whole, scores @ value) < 1e-5

    class Elsewhere:
        """A tensor of a device without such a kernel."""

        device = torch.device("meta")
        shape = query.shape

        def split(self, step: int, dim: int) -> tuple[torch.Tensor, ...]:
            assert step == 5
            return query.split(step, dim)

    monkeypatch.setattr(torch_vision, "QUERY_CHUNK", 5)
    assert distance(torch_vision.attend(Elsewhere(), key, value), whole) < 1e-6


class Sizes(TorchDispatchMode):
    """Notes how many values each tensor has that comes out of an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen += [one.numel() for one in (out if isinstance(out, tuple) else (out,)) if isinstance(one, torch.Tensor)]
        return out


def test_ten_thousand_patches_never_make_a_matrix_of_scores(tmp_path: Path) -> None:
    """The largest official picture, 100 x 100 patches, through one thin layer; one head's scores would be 100 million values."""
    vision = VisionConfig(hidden=16, layers=1, heads=2, head_dim=8, ffn=16, patch=2, channels=3, activation="silu", theta=1e4)
    config = replace(read(tmp_path, {}, {}), vision=vision)
    ours, pixels = tower(config, random_weights(config, 0)), torch.from_numpy(picture(config, (50, 50)))
    with Sizes() as sizes:
        assert ours.features(pixels).shape == (2500, config.hidden)
    assert 10_000 * 3 * 16 in sizes.seen and max(sizes.seen) == 10_000 * 3 * 16
