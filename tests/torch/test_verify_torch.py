"""`sensorium verify-checkpoint` with torch on a CPU: the same checks, in several number formats, pass and fail where they should."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sensorium
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.rows import Row
from sensorium.engines.diffusion_vlm.verification import golden, torch_subject, verify
from sensorium.engines.diffusion_vlm.verification.checks import Check
from sensorium.engines.diffusion_vlm.verification.subjects import Rules
from tests.engines.diffusion_vlm import spoiling
from tests.engines.diffusion_vlm.checkpoints import encode, write_checkpoint, write_safetensors
from tests.engines.diffusion_vlm.golden_oracle import write_dumps

torch = pytest.importorskip("torch", reason="needs torch: make oracles installs it")

SHIPPED = Path(sensorium.__file__).parent / "models" / "scenes-vlm"
LAYER = "encoder.layers.1."
SEEING = "encoder.vision_tower.transformer.layers.0."


def failures(checks: Sequence[Check]) -> dict[str, str]:
    return {check.name: check.figure for check in checks if check.state == "FAIL"}


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dumps(SHIPPED, tmp_path_factory.mktemp("golden") / "dumps")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_shipped_checkpoint_agrees_with_itself_and_with_the_slow_oracle(dumps: Path, dtype: str) -> None:
    checks = verify.verify(SHIPPED, dumps=dumps, device="cpu", dtype=dtype)
    assert failures(checks) == {}
    assert [check.name for check in checks if check.state == "skipped"] == ["draft adapter"] + [
        f"text: {name}" for name in ("pixels", "tower", "projector")
    ]
    assert f"cpu in {dtype}" in next(check.figure for check in checks if check.name == "pictures")
    tokens = next(check.figure for check in checks if check.name == "picture: tokens")
    assert dtype != "float32" or tokens == "25 tokens are equal"


@pytest.mark.parametrize("variant", ["plain", "wide_heads", "other_ids", "int8"])
def test_random_checkpoints_pass(tmp_path: Path, variant: str) -> None:
    assert failures(verify.verify(write_checkpoint(tmp_path / "c", variant), device="cpu")) == {}


def louder(tensors: spoiling.Weights, name: str) -> None:
    tensors[name] = tensors[name] * np.float32(1.5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("spoil", "failing"),
    [
        (lambda f: spoiling.weights(f, lambda all: louder(all, LAYER + "self_attn.o_proj.weight")), "text: prefill logits"),
        (lambda f: spoiling.weights(f, lambda all: louder(all, SEEING + "feed_forward.up_proj.weight")), "picture: tower"),
        (
            lambda f: spoiling.weights(f, lambda all: spoiling.swap(all, *(f"{LAYER}mlp.{name}_proj.weight" for name in ("gate", "up")))),
            "text: prefill logits",
        ),
        (lambda f: spoiling.config(f, lambda c: c["rope_parameters"].update(rope_theta=1e5)), "picture: prefill logits"),
    ],
)
def test_faults_are_found_in_any_number_format(
    tmp_path: Path, dumps: Path, spoil: Callable[[Path], Path], failing: str, dtype: str
) -> None:
    found = failures(verify.verify(spoil(spoiling.copied(SHIPPED, tmp_path / "c")), dumps=dumps, device="cpu", dtype=dtype))
    assert failing in found, found
    assert ("picture: tower" in found) == (failing == "picture: tower")


def talking_mask(tensors: spoiling.Weights) -> None:
    """The mask is said where the end token was, a little louder."""
    head = tensors["diffusion_head.weight"] = tensors["diffusion_head.weight"].copy()
    head[100] = head[11] * np.float32(1.01)


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_a_reference_that_says_the_mask_is_followed(tmp_path: Path, device: str) -> None:
    folder = spoiling.weights(spoiling.copied(SHIPPED, tmp_path / "c"), talking_mask)
    spoken = write_dumps(folder, tmp_path / "dumps")
    index = golden.read(spoken)
    assert all(100 in case.tokens for case in index.cases)
    checks = verify.verify(folder, dumps=spoken, device=device)
    assert failures(checks) == {}  # and the engine's own rules never say it
    assert "none is the mask" in next(check.figure for check in checks if check.name == "mask never said")


def test_dumps_in_bfloat16_have_confidences_in_bfloat16() -> None:
    config = read_config(SHIPPED)
    subject = torch_subject.TorchSubject(SHIPPED, config, 64, torch.device("cpu"), torch.float32)
    row = Row(0, 0, [10, 248, 331, 100], False)
    exact = subject.forward([row])[0][1]
    subject.obey(Rules(ban_mask=False, float32_confidence=False))
    rounded = subject.forward([row])[0][1]
    assert not np.array_equal(exact, rounded)
    assert np.array_equal(rounded, torch.from_numpy(np.asarray(rounded)).bfloat16().float().numpy())


def adapted(folder: Path, rank: int = 2) -> Path:
    config = read_config(folder)
    place = folder / verify.ADAPTER
    place.mkdir()
    settings = {"r": rank, "lora_alpha": 8, "target_modules": ["o_proj"], "bias": "none"}
    (place / "adapter_config.json").write_text(json.dumps(settings))
    width, rng = config.heads * config.head_dim, np.random.default_rng(0)
    parts = {
        f"base_model.model.encoder.layers.{index}.self_attn.o_proj.lora_{part}.weight": rng.normal(size=shape).astype(np.float32)
        for index in range(config.layers)
        for part, shape in (("A", (2, width)), ("B", (config.hidden, 2)))
    }
    write_safetensors(place / "adapter_model.safetensors", encode(parts, "F32"))
    return folder


def test_a_draft_adapter_is_examined_and_changes_no_answer(tmp_path: Path) -> None:
    checks = verify.verify(adapted(write_checkpoint(tmp_path / "c")), device="cpu")
    assert failures(checks) == {}
    assert next(check.figure for check in checks if check.name == "draft adapter") == "rank 2 in 2 layers, scale 4"
    wrong = failures(verify.verify(adapted(write_checkpoint(tmp_path / "d"), rank=3), device="cpu"))
    assert wrong.keys() == {"draft adapter"} and "lora_A" in wrong["draft adapter"]


def test_a_device_that_is_not_there_is_told(tmp_path: Path) -> None:
    found = failures(verify.verify(SHIPPED, device="cuda:99"))
    assert "cuda:99" in found["weights"]
    found = failures(verify.verify(SHIPPED, device="cpu", dtype="int4"))
    assert "int4" in found["weights"]


def test_a_broken_torch_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch_subject.TorchModel.logits

    def late(self: Any, row: Row) -> Any:
        return real(self, row) * (1.0 if row.start == 0 else 1.1)

    monkeypatch.setattr(torch_subject.TorchModel, "logits", late)
    assert "cached forward" in failures(verify.verify(SHIPPED, device="cpu"))
