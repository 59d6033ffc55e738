"""Config files: every number from the file, one error for all problems, unsupported values named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sensorium.engines.diffusion_vlm.config import SideConfig, read_config, read_side_config
from sensorium.errors import SettingsError
from tests.engines.diffusion_vlm.checkpoints import OFFICIAL_IDS, config_of


def values(**changes: Any) -> dict[str, Any]:
    return config_of(OFFICIAL_IDS, 256, changes, {})


def write(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def problems(folder: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        read_config(folder)
    return "\n".join(caught.value.problems)


def test_numbers_come_from_the_file(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, values(hidden_size=40, rms_norm_eps=1e-6, eos_token_id=[11, 13])))
    assert (config.hidden, config.heads, config.kv_heads, config.head_dim, config.eps) == (40, 4, 2, 12, 1e-6)
    assert (config.mask, config.ends, config.cell) == (100, {11, 13}, 8)
    assert (config.rope.window, config.rope.query_scale, config.vision.activation) == (16, 0.1, "silu")


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    content = values(num_hidden_layers="two", head_dim=0, tie_word_embeddings=True, rms_norm_eps=-1)
    del content["vocab_size"], content["vision_config"]["patch_size"]
    said = problems(write(tmp_path, content))
    for key in (
        "num_hidden_layers is 'two'",
        "head_dim is 0",
        "tie_word_embeddings is True",
        "rms_norm_eps is -1",
        "vocab_size is missing",
    ):
        assert key in said
    assert "vision_config.patch_size is missing" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"sliding_window": 4096}, "sliding_window is 4096"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads"),
        ({"mask_token_id": 11}, "also an eos_token_id"),
        ({"mask_token_id": 9999}, "below vocab_size"),
        ({"eos_token_id": None}, "eos_token_id is missing"),
        ({"eos_token_id": []}, "eos_token_id"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, expected a whole number of at least 1 and at most 1000"),
        ({"hidden_size": 2**40}, "hidden_size is 1099511627776"),
        ({"vision_config": {"hidden_act": "relu"}}, "vision_config.hidden_act is 'relu'"),
    ],
)
def test_unsupported_values_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in problems(write(tmp_path, values(**changes)))


def test_a_rotary_scaling_that_is_not_computed_is_refused(tmp_path: Path) -> None:
    content = values()
    content["rope_parameters"] |= {"mscale": 1.0, "mscale_all_dim": 0.5, "rope_type": "linear"}
    said = problems(write(tmp_path, content))
    assert "mscale" in said and "rope_type is 'linear'" in said


@pytest.mark.parametrize("kind", ["linear", "dynamic", "llama3", "longrope", "default", "proportional"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_only_the_rotary_positions_that_are_computed_pass(tmp_path: Path, key: str, kind: str) -> None:
    content = values()
    content["rope_parameters"].pop("rope_type")
    content["rope_parameters"][key] = kind
    assert f"rope_parameters.{key} is '{kind}', only 'yarn' is supported" in problems(write(tmp_path, content))


def test_so_do_only_those_of_the_tower(tmp_path: Path) -> None:
    content = values()
    content["vision_config"]["rope_parameters"]["rope_type"] = "yarn"
    assert "vision_config.rope_parameters.rope_type is 'yarn', only 'default' and 'axial'" in problems(write(tmp_path, content))


def test_the_towers_theta_and_head_size_may_stand_where_older_files_have_them(tmp_path: Path) -> None:
    content = values()
    del content["vision_config"]["rope_parameters"], content["vision_config"]["head_dim"]
    content["vision_config"]["rope_theta"] = 500.0
    vision = read_config(write(tmp_path, content)).vision
    assert (vision.theta, vision.head_dim) == (500.0, 16)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "config.json is not" in problems(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    assert "config.json cannot be read" in problems(tmp_path)


def test_the_side_config_is_optional(tmp_path: Path) -> None:
    assert read_side_config(tmp_path) == SideConfig(1400, None, None)
    side = {
        "format": 1,
        "kind": "diffusion_vlm",
        "scope": "synthetic-scenes",
        "max_image_size": 96,
        "fit": "square",
        "weights": "int8-rows",
    }
    (tmp_path / "sensorium.json").write_text(json.dumps(side))
    assert read_side_config(tmp_path) == SideConfig(96, "square", "synthetic-scenes")


def test_a_wrong_side_config_lists_its_problems(tmp_path: Path) -> None:
    (tmp_path / "sensorium.json").write_text(json.dumps({"format": 2, "kind": "flow_image", "fit": "stretch", "max_image_size": 0}))
    with pytest.raises(SettingsError) as caught:
        read_side_config(tmp_path)
    assert len(caught.value.problems) == 4
