"""The draft adapter: read strictly, and added to drafting rows alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.rows import Row
from sensorium.engines.diffusion_vlm.torch_adapter import FOLDER, load_adapter
from sensorium.engines.diffusion_vlm.weights import plan
from sensorium.errors import SettingsError
from tests.engines.diffusion_vlm.checkpoints import encode, write_checkpoint, write_safetensors
from tests.torch.decoders import Tiny

SETTINGS = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["o_proj"], "bias": "none", "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = write_checkpoint(tmp_path_factory.mktemp("base"), "wide_heads")
    config = read_config(folder)
    return Tiny(config, dict(checkpoint.load(folder, plan(config))))


def matrices(tiny: Tiny) -> dict[str, np.ndarray]:
    """Random A and B of every layer in PEFT's names."""
    rng, queries = np.random.default_rng(0), tiny.config.heads * tiny.config.head_dim
    names = "base_model.model.encoder.layers.{}.self_attn.o_proj.lora_{}.weight"
    shapes = {"A": (4, queries), "B": (tiny.config.hidden, 4)}
    return {
        names.format(layer, part): rng.normal(0, 0.1, shape).astype(np.float32)
        for layer in range(tiny.config.layers)
        for part, shape in shapes.items()
    }


def write_adapter(folder: Path, content: dict[str, np.ndarray], settings: dict[str, Any] = SETTINGS) -> Path:
    folder = folder / FOLDER
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    write_safetensors(folder / "adapter_model.safetensors", encode(content, "F32"))
    return folder


@pytest.mark.parametrize("together", [False, True])
def test_drafting_rows_see_the_adapter_and_others_do_not(tiny: Tiny, together: bool, tmp_path: Path) -> None:
    content = matrices(tiny)
    adapter = load_adapter(write_adapter(tmp_path, content), tiny.config)
    merged = dict(tiny.weights)
    for layer in range(tiny.config.layers):
        a, b = (content[f"base_model.model.encoder.layers.{layer}.self_attn.o_proj.lora_{part}.weight"] for part in "AB")
        name = f"encoder.layers.{layer}.self_attn.o_proj.weight"
        merged[name] = merged[name] + 4.0 * b @ a
    rows = [Row(slot, 0, tiny.tokens(9, slot), False, draft=slot in (1, 2)) for slot in range(4)]
    got = tiny.torch(together=together, adapter=adapter).forward(rows)
    base, other = tiny.torch().forward(rows), Tiny(tiny.config, merged).torch().forward(rows)
    assert np.abs(base[1][1] - other[1][1]).max() > 1e-3
    for slot, (best, confidence) in enumerate(got):
        right, sure = (other if slot in (1, 2) else base)[slot]
        assert best.tolist() == right.tolist() and np.allclose(confidence, sure, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("together", [False, True])
def test_an_adapter_of_zeros_is_none(tiny: Tiny, together: bool, tmp_path: Path) -> None:
    content = {name: values * (".lora_A." in name) for name, values in matrices(tiny).items()}
    adapter = load_adapter(write_adapter(tmp_path, content), tiny.config)
    rows = [Row(slot, 0, tiny.tokens(9, slot), False, draft=True) for slot in range(3)]
    for (best, confidence), (right, sure) in zip(
        tiny.torch(together=together, adapter=adapter).forward(rows), tiny.torch(together=together).forward(rows), strict=True
    ):
        assert np.array_equal(best, right) and np.array_equal(confidence, sure)


def test_what_was_read(tiny: Tiny, tmp_path: Path) -> None:
    content = matrices(tiny)
    adapter = load_adapter(write_adapter(tmp_path, content), tiny.config)
    assert adapter.scale == 4.0 and len(adapter.inward) == len(adapter.outward) == tiny.config.layers
    name = "base_model.model.encoder.layers.1.self_attn.o_proj.lora_A.weight"
    assert adapter.inward[1].dtype == torch.float32 and np.array_equal(adapter.inward[1].numpy(), content[name])


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("r", 0, "r is 0"),
        ("r", True, "r is True"),
        ("lora_alpha", "16", "lora_alpha is '16'"),
        ("lora_alpha", None, "lora_alpha is None"),
        ("target_modules", ["o_proj", "q_proj"], "target_modules"),
        ("bias", "all", "bias is 'all'"),
        ("use_rslora", True, "use_rslora"),
        ("use_dora", True, "use_dora"),
        ("rank_pattern", {"o_proj": 8}, "rank_pattern"),
    ],
)
def test_settings_that_are_not_this_arithmetic_are_refused(tiny: Tiny, tmp_path: Path, key: str, value: object, told: str) -> None:
    folder = write_adapter(tmp_path, matrices(tiny), SETTINGS | {key: value})
    with pytest.raises(SettingsError) as caught:
        load_adapter(folder, tiny.config)
    assert told in " ".join(caught.value.problems) and f"{FOLDER}/adapter_config.json" in caught.value.problems[0]


def test_a_missing_unexpected_or_misshapen_matrix_is_named(tiny: Tiny, tmp_path: Path) -> None:
    content = matrices(tiny)
    first, second, *_ = content
    content["base_model.model.encoder.layers.0.self_attn.q_proj.lora_A.weight"] = content.pop(first)
    content[second] = content[second][:-1]
    with pytest.raises(SettingsError) as caught:
        load_adapter(write_adapter(tmp_path, content), tiny.config)
    assert len(caught.value.problems) == 3 and all(any(name in problem for problem in caught.value.problems) for name in (first, second))


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_settings_that_cannot_be_read(tiny: Tiny, tmp_path: Path, text: str | None) -> None:
    folder = write_adapter(tmp_path, matrices(tiny))
    path = folder / "adapter_config.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(SettingsError, match=r"adapter_config\.json"):
        load_adapter(folder, tiny.config)
