"""Bad FLUX checkpoints: everything that is wrong is told at once, and nothing half is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sensorium.engines.flux import fitting, folder
from sensorium.engines.flux.engine import Flux
from sensorium.engines.orders import ModelOrder
from sensorium.errors import SettingsError
from tests.torch import flux_folders

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
T5 = "text_encoder_2/model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flux_folders.write(tmp_path_factory.mktemp("flux") / "flux", "schnell")


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "flux"))


def load(path: Path) -> Flux:
    return Flux.load(path, ModelOrder(path=str(path), device="cpu"))


def change(file: Path, **members: Any) -> None:
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | members))


def problems(path: Path) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(path)
    return caught.value.problems


def test_all_problems_are_told_at_once(broken: Path) -> None:
    shutil.rmtree(broken / "vae")
    (broken / T5).unlink()
    (broken / "tokenizer/tokenizer.json").unlink()
    (broken / "scheduler/scheduler_config.json").write_text("{")
    change(broken / "model_index.json", transformer=["os", "system"], controlnet=["diffusers", "FluxControlNetModel"])
    found = problems(broken)
    told = ["transformer must be", "controlnet", "vae/config.json", "diffusion_pytorch_model.safetensors is missing", T5]
    told += ["tokenizer: neither", "scheduler_config.json cannot be read"]
    for says in told:
        assert any(says in problem for problem in found), (says, found)
    assert all(problem.startswith("flux/") for problem in found)
    assert len(found) == 7


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert any("model_index.json is missing" in problem for problem in problems(tmp_path / "none"))


@pytest.mark.parametrize(
    ("file", "members", "says"),
    [
        ("model_index.json", {"_class_name": "FluxFillPipeline"}, "_class_name must be FluxPipeline"),
        ("model_index.json", {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}, "image_encoder"),
        ("model_index.json", {"tokenizer": ["my_module", "CLIPTokenizer"]}, "tokenizer must be transformers CLIPTokenizer"),
        ("transformer/config.json", {"guidance_embeds": True}, "neither FLUX.1"),
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "neither FLUX.1"),
        ("transformer/config.json", {"joint_attention_dim": 32}, "d_model 24"),
        ("transformer/config.json", {"pooled_projection_dim": 32}, "hidden_size 16"),
        ("vae/config.json", {"latent_channels": 16}, "latent_channels 16"),
        ("vae/config.json", {"block_out_channels": 4}, "block_out_channels"),
    ],
)
def test_what_is_wrong_is_named(broken: Path, file: str, members: dict[str, Any], says: str) -> None:
    change(broken / file, **members)
    assert any(says in problem for problem in problems(broken))


def test_pickled_weights_are_not_loaded(broken: Path) -> None:
    weights = load_file(broken / T5)
    (broken / T5).unlink()
    torch.save(weights, broken / "text_encoder_2/pytorch_model.bin")
    assert problems(broken) == [f"flux/{T5} is missing (weights in another format are not loaded)"]


def cut(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights.items() if not name.endswith("to_q.weight") and "SelfAttention.q" not in name}


def reshape(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[:-1].contiguous() if name.endswith("q.weight") else value for name, value in weights.items()}


@pytest.mark.parametrize("spoil", [cut, reshape])
@pytest.mark.parametrize("file", [TRANSFORMER, T5])
def test_weights_that_are_missing_or_misshapen_are_no_random_ones(
    broken: Path, file: str, spoil: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    save_file(spoil(load_file(broken / file)), broken / file, {"format": "pt"})
    (found,) = problems(broken)
    assert found.startswith(f"flux/{file.partition('/')[0]}")


def test_a_file_that_ends_in_the_middle(broken: Path) -> None:
    data = (broken / TRANSFORMER).read_bytes()
    (broken / TRANSFORMER).write_bytes(data[: len(data) // 2])
    (found,) = problems(broken)
    assert found.startswith(f"flux/{TRANSFORMER} has {len(data) // 2} bytes")
    (broken / TRANSFORMER).write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert problems(broken) == [f"flux/{TRANSFORMER} is no readable safetensors file"]


def test_shards_and_their_index(broken: Path, whole: Path) -> None:
    weights = load_file(broken / T5)
    (broken / T5).unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, held in shards.items():
        save_file({name: weights[name] for name in held}, broken / "text_encoder_2" / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    (broken / f"{T5}.index.json").write_text(json.dumps(index))
    sharded, single = (folder.read(path).weights["text_encoder_2"] for path in (broken, whole))
    assert (sharded.numbers, sharded.largest) == (single.numbers, single.largest)
    assert abs(sharded.size - single.size) < 2000
    load(broken)
    (broken / "text_encoder_2/b.safetensors").unlink()
    assert any("b.safetensors is missing" in problem for problem in problems(broken))
    index["weight_map"] = dict.fromkeys(names, "../vae/diffusion_pytorch_model.safetensors")
    (broken / f"{T5}.index.json").write_text(json.dumps(index))
    assert any("weight_map" in problem for problem in problems(broken))


@pytest.mark.parametrize("options", [{}, {"quant": "fp8"}, {"dtype": "bfloat16"}])
def test_the_estimate_is_near_what_is_measured(whole: Path, options: dict[str, Any]) -> None:
    order = ModelOrder(path=str(whole), device="cpu", **options)
    item = 2 if order.dtype == "bfloat16" else 4
    model = Flux.load(whole, order)
    # Biases, norms and embeddings, which fp8 leaves as they are, weigh more in a tiny model.
    assert fitting.expected_bytes(folder.read(whole).weights, order, "cpu", item) == pytest.approx(model.bytes, rel=0.2)
