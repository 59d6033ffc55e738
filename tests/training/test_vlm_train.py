"""The training learns, continues from its checkpoint, and exports a folder that the engine's own loader accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from training import vlm_train
from training.export import export_vlm, int8_rows
from training.optim import orthogonalise, schedule

SMOKE = ["--smoke", "--processes", "1", "--batch", "2", "--tower-share", "0.2", "--muon-lr", "2e-2", "--adam-lr", "2e-2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    vlm_train.start(vlm_train.parse([*SMOKE, "--out", str(folder), "--steps", "14"]))
    return folder


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_loss_falls(run: Path) -> None:
    losses = [line["ar"] + line["diffusion"] for line in lines(run) if "ar" in line]
    assert losses[-1] < losses[0] - 0.5


def test_a_stopped_run_goes_on_where_it_was(run: Path) -> None:
    vlm_train.start(vlm_train.parse([*SMOKE, "--out", str(run), "--steps", "16"]))
    log = lines(run)
    assert [line["resumed"] for line in log if "resumed" in line] == [14]
    assert max(line.get("step", 0) for line in log) == 16


def test_the_exported_folder_loads_in_the_engine(run: Path, tmp_path: Path) -> None:
    small = export_vlm(run / vlm_train.CHECKPOINT, tmp_path / "int8")
    plain = export_vlm(run / vlm_train.CHECKPOINT, tmp_path / "float", plain=True)
    assert small < plain / 2
    assert DiffusionVLM.load(tmp_path / "int8").scope == "synthetic-scenes"
    assert "stand-in" in (tmp_path / "int8" / "README.md").read_text()


def test_a_run_can_begin_with_an_exported_folder(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    export_vlm(run / vlm_train.CHECKPOINT, folder)
    begun = vlm_train.Run(vlm_train.parse([*SMOKE, "--out", str(tmp_path), "--start", str(folder)]), 0)
    saved = torch.load(run / vlm_train.CHECKPOINT, weights_only=True)["optimiser"]
    begin, end, _ = begun.optimiser.spans["model.encoder.embed_tokens.weight"]
    assert torch.allclose(begun.optimiser.flat[begin:end], saved["ema"][begin:end], atol=0.02)


def test_int8_rows_are_within_half_a_step() -> None:
    weights = {"matrix": torch.randn(80, 64), "vector": torch.randn(80), "small": torch.randn(8, 8)}
    stored = int8_rows(weights)
    assert stored["matrix"].dtype == torch.int8 and stored["vector"].dtype == stored["small"].dtype == torch.float32
    back = stored["matrix"].float() * stored["matrix_scale"][:, None]
    assert ((back - weights["matrix"]).abs() <= stored["matrix_scale"][:, None] * 0.5001).all()


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(1)
    for shape in ((3, 20, 50), (2, 50, 20)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.3 and values.max() < 1.4


def test_the_schedule_warms_up_stays_and_falls() -> None:
    assert schedule(0, 0.0) < 0.05
    assert schedule(1000, 0.5) == 1.0
    assert schedule(1000, 0.8) < schedule(1000, 0.6) < 1.0
    assert schedule(1000, 1.0) == pytest.approx(0.02)
