"""The engine process seen from inside: which model a folder holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.loading import Loading, kind
from sensorium.engines.orders import ModelOrder, Orders
from sensorium.errors import SettingsError
from tests.engines.diffusion_vlm.checkpoints import random_weights, write_checkpoint, write_weights
from tests.engines.flow_image import tiny


def loading(*models: ModelOrder) -> Loading:
    return Loading(Orders(token="", models=list(models), socket=-1), lambda told: None)


def test_the_kind_is_declared(tmp_path: Path) -> None:
    assert kind(tiny.write(tmp_path / "flow")) == "flow_image"
    assert kind(write_checkpoint(tmp_path / "vlm", side={})) == "diffusion_vlm"


def test_an_official_checkpoint_without_our_file_is_a_vision_model(tmp_path: Path) -> None:
    assert kind(write_checkpoint(tmp_path / "vlm")) == "diffusion_vlm"


def test_a_pipeline_of_diffusers_is_told_by_its_index(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}", "utf-8")
    assert kind(tmp_path) == "flux"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"kind": "song"}', "kind must be diffusion_vlm or flow_image, not 'song'"),
        ("[]", "kind must be"),
        ("{", r"sensorium\.json cannot be read"),
    ],
)
def test_another_kind_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "sensorium.json").write_text(content, "utf-8")
    with pytest.raises(SettingsError, match=says):
        kind(tmp_path)


def test_a_folder_without_a_model_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"config\.json .*, model_index\.json .* or sensorium\.json"):
        kind(tmp_path)
    with pytest.raises(SettingsError, match=r"^nowhere is no folder"):  # callers are told, and need not know where
        kind(tmp_path / "nowhere")


def test_all_that_is_wrong_with_the_orders_is_told_at_once(tmp_path: Path) -> None:
    flow, vlm = tiny.write(tmp_path / "flow"), write_checkpoint(tmp_path / "vlm")
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text("{}", "utf-8")
    orders = [
        ModelOrder(path=str(tmp_path / "nowhere")),
        ModelOrder(path=str(flow), device="cuda"),
        ModelOrder(path=str(pipeline)),
        ModelOrder(path=str(vlm), name="mine"),
        ModelOrder(path=str(vlm), serves=["mine"]),
    ]
    with pytest.raises(SettingsError) as caught:
        loading(*orders)
    expected = (
        "is no folder",
        "two models are called mine",
        "sensorium/flow: a flow_image model runs with device numpy only, not cuda",
        "sensorium/pipeline: FLUX runs with torch",
    )
    assert len(caught.value.problems) == len(expected)
    assert all(says in problem for says, problem in zip(expected, caught.value.problems, strict=True))
    with pytest.raises(SettingsError, match="no model is named"):
        loading()


def test_loading_tells_how_far_each_model_is(tmp_path: Path) -> None:
    told: list[Any] = []
    flow, vlm = tiny.write(tmp_path / "flow"), write_checkpoint(tmp_path / "vlm")
    orders = Orders(token="", models=[ModelOrder(path=str(flow)), ModelOrder(path=str(vlm), name="eyes", serves=["other"])], socket=-1)
    here = Loading(orders, lambda models: told.append([(one["name"], one["state"]) for one in models]))
    assert here.quick
    here.run()
    assert told == [
        [("sensorium/flow", "loading"), ("eyes", "waiting")],
        [("sensorium/flow", "ready"), ("eyes", "loading")],
        [("sensorium/flow", "ready"), ("eyes", "ready")],
    ]
    assert here.hosted[1].names == ("eyes", "other")
    assert here.close(1)


def test_a_model_that_cannot_be_loaded_has_failed(tmp_path: Path) -> None:
    here = loading(
        ModelOrder(path=str(tiny.write(tmp_path / "flow", prediction="velocity"))), ModelOrder(path=str(write_checkpoint(tmp_path / "vlm")))
    )
    with pytest.raises(SettingsError, match="prediction must be x0"):
        here.run()
    assert [one["state"] for one in here.progress()] == ["failed", "waiting"]


def test_a_checkpoint_that_holds_no_numbers_is_not_served(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "vlm")
    values = random_weights(read_config(folder), 0)
    values["encoder.multi_modal_projector.norm.weight"][3] = np.nan
    write_weights(folder, values)
    with pytest.raises(SettingsError, match=r"vlm: tensor encoder\.multi_modal_projector\.norm\.weight holds NaN or infinite values"):
        loading(ModelOrder(path=str(folder))).run()


def test_a_device_of_torch_needs_torch_and_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    here = loading(ModelOrder(path=str(write_checkpoint(tmp_path / "vlm")), device="cpu"))
    assert not here.quick
    with pytest.raises(SettingsError, match=r"needs torch.*pip install 'sensorium\[torch\]'"):
        here.run()


def test_the_process_of_the_small_models_imports_nothing_that_only_others_need() -> None:
    heavy = ("torch", "pydantic", "prometheus_client", "diffusers", "transformers", "llguidance", "aiohttp", "sqlite3")
    program = f"import sys; from sensorium.engines import server; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
