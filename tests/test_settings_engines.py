"""The tables of engines: what they may say, and what has to be there. Everything wrong is told at once."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from sensorium.errors import SettingsError
from sensorium.model_folders import PACKAGED, look
from sensorium.settings import Settings, load, load_for_vault, problems_of

EXAMPLE = Path(__file__).parent.parent / "sensorium.example.toml"


def folder(at: Path, **files: object) -> Path:
    """A folder with these JSON files; a text stands as it is."""
    at.mkdir(parents=True)
    for name, told in files.items():
        content = told if isinstance(told, str) else json.dumps(told)
        (at / name.replace("_json", ".json").replace("_dash_", "-").replace("_md", ".md")).write_text(content, "utf-8")
    return at


def read(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "sensorium.toml"
    path.write_text(text, "utf-8")
    return load(path, {}, data_dir=tmp_path)


def told(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    return caught.value.problems


def test_a_table_and_its_defaults(tmp_path: Path) -> None:
    there = folder(tmp_path / "vlm", config_json={})
    table = read(tmp_path, f'[engines.gpu]\nlicence_acknowledged = true\nmodels = [{{ path = "{there}", serves = ["a/b"] }}]').engines[
        "gpu"
    ]
    (model,) = table.models
    assert (model.path, model.serves, model.device, model.dtype, model.slots, model.pinned) == (there, ("a/b",), "auto", "auto", 0, False)
    assert (table.private, table.queue, table.memory_gb) == (True, 32, None)
    assert model.names(look(there)) == ("vlm", "a/b")


def test_what_was_pulled_is_found_in_the_data_folder_in_any_case(tmp_path: Path) -> None:
    record = {"complete": True, "licence": {"name": "some-licence"}}
    there = folder(tmp_path / "models" / "Acme--Eye-8B", config_json={}, sensorium_dash_pull_json=record)
    (model,) = read(tmp_path, '[engines.gpu]\nlicence_acknowledged = true\nmodels = [{ id = "acme/eye-8b" }]').engines["gpu"].models
    assert model.folder(tmp_path) == there
    assert look(there).licence == "some-licence"
    assert model.names(look(there)) == ("acme/eye-8b",)


def test_a_pull_that_was_interrupted_or_never_made_is_told(tmp_path: Path) -> None:
    folder(tmp_path / "models" / "acme--half", config_json={}, sensorium_dash_pull_json={"complete": False})
    text = '[engines.gpu]\nlicence_acknowledged = true\nmodels = [{ id = "acme/half" }, { id = "acme/none" }]'
    half, none = told(tmp_path, text)
    assert half.startswith("engines.gpu.models.0.id:") and "its download was interrupted" in half
    assert none.startswith("engines.gpu.models.1.id:") and none.endswith(
        "there is no such folder; fetch it with `sensorium pull acme/none`"
    )


def test_every_problem_of_a_table_is_told_with_its_path(tmp_path: Path) -> None:
    text = """
        [engines.gpu]
        models = [
            { path = "a", id = "b/c" }, {},
            { id = "nothing", device = "gpu", dtype = "int4", quant = "int2", offload = "disk", slots = -1, context = -1 },
            { id = "a/b", attention = "fast" },
            { path = "a", name = "..", serves = ["a b"], pined = true },
        ]
        queue = 0
        hang_s = 1
        start_s = 0
        wait_s = -1
        memory_gb = 0
        deadline_s = 0
        licence_acknowledged = "perhaps"
        [engines.none]
        models = []
        """
    problems = "\n".join(told(tmp_path, text))
    for part in ("models.0: name its folder in path", "models.1: name its folder in path", "models.2.id: write it as ORG/NAME"):
        assert f"engines.gpu.{part}" in problems
    for option in ("device", "dtype", "quant", "offload", "slots", "context"):
        assert f"engines.gpu.models.2.{option}: " in problems
    assert "engines.gpu.models.3.attention: " in problems
    for part in ("models.4.name: may hold", "models.4.serves.0: may hold", "models.4.pined: unknown key"):
        assert f"engines.gpu.{part}" in problems
    for option in ("queue", "hang_s", "start_s", "wait_s", "memory_gb", "deadline_s", "licence_acknowledged"):
        assert f"engines.gpu.{option}: " in problems
    assert "engines.none.models: " in problems


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[engines.local]\nmodels = [{ id = "a/b" }]', "engines.local: this name is the hub's own"),
        ('[engines."a.b"]\nmodels = [{ id = "a/b" }]', "engines.a.b: an engine's name has"),
        ('[engines.e]\nmodels = [{ id = "a/b" }, { id = "c/d", serves = ["a/b"] }]', "engines.e.models: a/b is named twice"),
        ('[engines.e]\nmodels = [{ id = "a/b", device = "numpy", dtype = "bfloat16" }]', 'engines.e.models.0.dtype: device "numpy"'),
        ('[engines.e]\nmodels = [{ id = "a/b", device = "cpu", quant = "fp8" }]', "engines.e.models.0.quant: needs an NVIDIA GPU"),
        ('[engines.e]\nmodels = [{ id = "a/b", device = "mps", offload = "group" }]', "engines.e.models.0.offload: needs an NVIDIA GPU"),
        ('[engines.e]\nmodels = [{ id = "a/b" }]', "engines.e.licence_acknowledged: a/b is not one of the package's models"),
        ('[engines.e]\nmodels = [{ path = "/m/x" }]', "engines.e.licence_acknowledged: /m/x is not one of the package's models"),
    ],
)
def test_a_table_that_contradicts_itself(tmp_path: Path, table: str, said: str) -> None:
    assert any(problem.startswith(said) for problem in problems_of(table)), problems_of(table)
    assert any(problem.startswith(said) for problem in told(tmp_path, table))


def test_a_provider_and_an_engine_have_different_names(tmp_path: Path) -> None:
    provider = '[providers.gpu]\nkind = "engine"\nbase_url = "http://127.0.0.1:1/v1"\nmodels = ["m"]\n'
    assert "engines.gpu: this name is a provider's own; choose another" in problems_of(
        f'{provider}[engines.gpu]\nmodels = [{{ id = "a/b" }}]'
    )


def test_the_packages_own_models_need_no_licence_and_are_named_like_the_hub_names_them(tmp_path: Path) -> None:
    for own in sorted(side.parent for side in PACKAGED.glob("*/sensorium.json")):
        (model,) = read(tmp_path, f'[engines.e]\nmodels = [{{ path = "{own}", device = "numpy" }}]').engines["e"].models
        assert model.names(look(own)) == (f"sensorium/{own.name}",)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "it holds no model: neither sensorium.json nor model_index.json nor config.json"),
        ({"sensorium_json": {"kind": "song"}}, "sensorium.json: kind must be diffusion_vlm or flow_image, not 'song'"),
        ({"sensorium_json": "{"}, "sensorium.json cannot be read"),
        ({"model_index_json": {"_class_name": "StableDiffusionPipeline"}}, "model_index.json is of a StableDiffusionPipeline"),
    ],
)
def test_a_folder_that_holds_no_model(tmp_path: Path, files: dict[str, object], said: str) -> None:
    there = folder(tmp_path / "m", **files)
    (problem,) = told(tmp_path, f'[engines.e]\nlicence_acknowledged = true\nmodels = [{{ path = "{there}" }}]')
    assert problem.startswith(f"engines.e.models.0.path: {there}: {said}")


def test_a_device_that_cannot_run_the_model(tmp_path: Path) -> None:
    flow = folder(tmp_path / "a", sensorium_json={"kind": "flow_image"})
    flux = folder(tmp_path / "b", model_index_json={"_class_name": "FluxPipeline"})
    models = f'[{{ path = "{flow}", device = "cpu" }}, {{ path = "{flux}", device = "numpy" }}]'
    assert told(tmp_path, f"[engines.e]\nlicence_acknowledged = true\nmodels = {models}") == [
        'engines.e.models.0.device: a model of kind flow_image runs on "numpy" only',
        'engines.e.models.1.device: FLUX needs torch, and "numpy" has none',
    ]


def test_without_a_device_small_models_run_without_torch(tmp_path: Path) -> None:
    small, large = folder(tmp_path / "a", sensorium_json={"kind": "diffusion_vlm"}), folder(tmp_path / "b", config_json={})
    text = f'[engines.e]\nlicence_acknowledged = true\nmodels = [{{ path = "{small}" }}, {{ path = "{large}" }}]'
    models = read(tmp_path, text).engines["e"].models
    assert [model.runs_on(look(at)) for model, at in zip(models, (small, large), strict=True)] == ["numpy", "auto"]


def test_two_folders_of_one_name_need_names(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "a" / "m", config_json={}), folder(tmp_path / "b" / "m", config_json={})
    text = f'[engines.e]\nlicence_acknowledged = true\nmodels = [{{ path = "{one}" }}, {{ path = "{other}" }}]'
    assert told(tmp_path, text) == ["engines.e.models.1.name: is needed, for m is another model's"]
    odd = folder(tmp_path / "my model", config_json={})
    (problem,) = told(tmp_path, f'[engines.e]\nlicence_acknowledged = true\nmodels = [{{ path = "{odd}" }}]')
    assert problem.startswith("engines.e.models.0.name: is needed, for 'my model' is no name")


def test_managing_secrets_needs_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "sensorium.toml"
    path.write_text('[engines.e]\nlicence_acknowledged = true\nmodels = [{ id = "acme/none" }]', "utf-8")
    assert "e" in load_for_vault(path, {}, data_dir=tmp_path).engines


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\ntext", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: 'nscl-v1'\n---\n", "nscl-v1"),
        ("# no head\nlicense: mit\n", None),
    ],
)
def test_the_licence_that_a_model_card_names(tmp_path: Path, card: str, licence: str | None) -> None:
    assert look(folder(tmp_path / "m", config_json={}, README_md=card)).licence == licence


def test_the_kinds() -> None:
    kinds = {side.parent.name: look(side.parent).kind for side in PACKAGED.glob("*/sensorium.json")}
    assert set(kinds.values()) == {"diffusion_vlm", "flow_image"}


def test_a_pipeline_of_flux(tmp_path: Path) -> None:
    assert look(folder(tmp_path / "m", model_index_json={"_class_name": "FluxPipeline"})).kind == "flux"


def test_the_table_of_the_example_is_one() -> None:
    lines = EXAMPLE.read_text("utf-8").partition("# [engines.gpu]")
    shown = "\n".join(line.removeprefix("# ") for line in (lines[1] + lines[2]).splitlines())
    assert problems_of(shown) == []
    assert [model["serves"] for model in tomllib.loads(shown)["engines"]["gpu"]["models"]]
