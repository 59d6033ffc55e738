"""The numpy decoder, tower and projector against transformers' Ministral3, Pixtral and Mistral3 projector, in float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Ministral3Config, Ministral3Model, Mistral3Config, PixtralVisionConfig, PixtralVisionModel
from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector

import sensorium
from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm.config import VLMConfig, read_config
from sensorium.engines.diffusion_vlm.numpy_model import NumpyModel
from sensorium.engines.diffusion_vlm.numpy_vision import Tower
from sensorium.engines.diffusion_vlm.rows import Row
from sensorium.engines.diffusion_vlm.weights import plan
from tests.engines.diffusion_vlm.checkpoints import OFFICIAL_IDS, Variant, write_checkpoint

SHIPPED = Path(sensorium.__file__).parent / "models" / "scenes-vlm"
VARIANTS = {
    "plain": Variant({}, {}, OFFICIAL_IDS),
    "wide heads, gelu tower": Variant(
        {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 20}, {"hidden_act": "gelu", "patch_size": 3}, OFFICIAL_IDS
    ),
    "one key head, sharded": Variant({"num_key_value_heads": 1, "rms_norm_eps": 1e-4}, {}, OFFICIAL_IDS, shards=2, storage="BF16"),
    "shipped": None,
}


@dataclass
class Folder:
    """A checkpoint: its raw config, ours, and its weights."""

    raw: Mapping[str, Any]
    config: VLMConfig
    weights: dict[str, np.ndarray]

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): torch.from_numpy(values) for name, values in self.weights.items() if name.startswith(prefix)}


@pytest.fixture(scope="module", params=list(VARIANTS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    variant = VARIANTS[request.param]
    path = SHIPPED if variant is None else write_checkpoint(tmp_path_factory.mktemp("tiny"), variant)
    config = read_config(path)
    return Folder(json.loads((path / "config.json").read_text()), config, dict(checkpoint.load(path, plan(config))))


def official_decoder(folder: Folder) -> Ministral3Model:
    keys = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "rms_norm_eps",
        "vocab_size", "max_position_embeddings", "rope_parameters", "sliding_window",
    )  # fmt: skip
    model = Ministral3Model(Ministral3Config(**{key: folder.raw[key] for key in keys}, attn_implementation="eager")).eval()
    state = {
        name: value for name, value in folder.under("encoder.").items() if not name.startswith(("vision_tower.", "multi_modal_projector."))
    }
    model.load_state_dict(state)
    return model


def official_logits(folder: Folder, tokens: list[int], positions: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        hidden = official_decoder(folder)(input_ids=torch.tensor([tokens]), position_ids=torch.tensor(positions)[None]).last_hidden_state[0]
        return (hidden @ torch.from_numpy(folder.weights["diffusion_head.weight"]).T).numpy()


def test_the_causal_decoder_within_and_beyond_the_window(folder: Folder) -> None:
    """130 positions: beyond every window here, so the frequency ramp and several steps of query growth are in it."""
    tokens = np.random.default_rng(0).integers(0, folder.config.vocab, 130).tolist()
    wanted = official_logits(folder, tokens, np.arange(130))
    model = NumpyModel(folder.config, folder.weights)
    whole = model.logits(Row(0, 0, tokens, True))
    assert np.abs(whole - wanted).max() < 2e-4 * np.abs(wanted).max()
    model.logits(Row(0, 0, tokens[:77], True))
    assert np.abs(model.logits(Row(0, 77, tokens[77:], True)) - wanted[77:]).max() < 2e-4 * np.abs(wanted).max()


def test_the_decoder_far_beyond_the_window(folder: Folder) -> None:
    """The same few tokens at the end of the model's positions, after a gap that nobody looks into."""
    start = folder.config.positions - 12
    tokens = np.random.default_rng(1).integers(0, folder.config.vocab, 12).tolist()
    model = NumpyModel(folder.config, folder.weights)
    model.reserve(1, folder.config.positions)
    model.turn = np.concatenate([model.turn[start : start + 12], model.turn])  # the row starts at 0, its positions at `start`
    got = model.logits(Row(0, 0, tokens, True))
    wanted = official_logits(folder, tokens, np.arange(start, start + 12))
    assert np.abs(got - wanted).max() < 1e-3 * np.abs(wanted).max()


def official_vision(folder: Folder) -> tuple[PixtralVisionModel, Mistral3MultiModalProjector]:
    raw = folder.raw["vision_config"]
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size", "image_size", "hidden_act")
    rope = {"rope_parameters": {"rope_theta": raw["rope_parameters"]["rope_theta"], "rope_type": "axial"}}
    vision = PixtralVisionConfig(**{key: raw[key] for key in keys}, **rope, attn_implementation="eager")
    text = {"model_type": "ministral3", "hidden_size": folder.raw["hidden_size"], "rms_norm_eps": folder.raw["rms_norm_eps"]}
    both = Mistral3Config(vision_config=vision, text_config=text, spatial_merge_size=folder.config.merge, multimodal_projector_bias=False)
    tower, projector = PixtralVisionModel(vision).eval(), Mistral3MultiModalProjector(both).eval()
    tower.load_state_dict(folder.under("encoder.vision_tower."))
    projector.load_state_dict(folder.under("encoder.multi_modal_projector."))
    return tower, projector


@pytest.mark.parametrize("cells", [(4, 4), (2, 3), (1, 1), (3, 1)])
def test_the_tower_and_the_projector(folder: Folder, cells: tuple[int, int]) -> None:
    height, width = (side * folder.config.cell for side in cells)
    pixels = np.random.default_rng(2).normal(size=(3, height, width)).astype(np.float32)
    tower, projector = official_vision(folder)
    with torch.no_grad():
        seen = tower(torch.from_numpy(pixels)[None], image_sizes=torch.tensor([[height, width]])).last_hidden_state.squeeze(0)
        wanted = projector(seen, torch.tensor([[height, width]])).numpy()
    ours = Tower(folder.config, folder.weights)
    assert np.abs(ours.encode(pixels) - seen.numpy()).max() < 1e-4 * float(seen.abs().max())
    assert ours.features(pixels).shape == wanted.shape
    assert np.abs(ours.features(pixels) - wanted).max() < 1e-4 * np.abs(wanted).max()
