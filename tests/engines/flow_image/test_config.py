"""Model folders with wrong configs are refused with everything that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensorium.engines.flow_image import config
from sensorium.errors import SettingsError

from . import tiny


def folder(tmp_path: Path, official: dict[str, Any] | None = None, side: dict[str, Any] | None = None) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(tiny.official(tiny.TRANSFORMER) | (official or {})), "utf-8")
    (tmp_path / "sensorium.json").write_text(json.dumps(tiny.side() | (side or {})), "utf-8")
    return tmp_path


def test_both_files_are_read(tmp_path: Path) -> None:
    found = config.load(folder(tmp_path))
    assert found.transformer == tiny.TRANSFORMER
    assert found.text == tiny.TEXT
    assert (found.size, found.patch, found.grid, found.shift, found.default_steps, found.max_steps) == (16, 4, 4, 1.5, 4, 50)
    assert (found.name, found.scope) == (tmp_path.name, "synthetic-scenes")


@pytest.mark.parametrize(
    ("embeds", "given", "kind"),
    [
        (False, None, "none"),
        (False, {"kind": "none"}, "none"),
        (False, {"kind": "mixed", "default": 1.5}, "mixed"),
        (True, {"kind": "embedded", "default": 2.0, "range": [1, 5]}, "embedded"),
        (True, {"default": 2.0}, "embedded"),
    ],
)
def test_kinds_of_guidance(tmp_path: Path, embeds: bool, given: Any, kind: str) -> None:
    official = tiny.official(replace(tiny.TRANSFORMER, guidance_embeds=embeds))
    assert config.load(folder(tmp_path, official, {"guidance": given})).guidance.kind == kind


@pytest.mark.parametrize(
    ("official", "side", "says"),
    [
        ({"in_channels": 47}, {}, "in_channels 47 must be patch x patch x 3 = 48"),
        ({"axes_dims_rope": [4, 4, 4]}, {}, "add up to attention_head_dim 16"),
        ({"axes_dims_rope": [3, 5, 8]}, {}, "three even numbers"),
        ({"num_layers": "two"}, {}, "num_layers must be an integer"),
        ({"num_layers": True}, {}, "num_layers must be an integer"),
        ({"joint_attention_dim": 40}, {}, "text_encoder.width must equal joint_attention_dim"),
        ({}, {"kind": "diffusion_vlm"}, "kind must be flow_image"),
        ({}, {"prediction": "velocity"}, "prediction must be x0"),
        ({}, {"image": {"size": 17, "patch": 4}}, "not a multiple"),
        ({}, {"steps": {"default": 60, "max": 50}}, "steps.default must not exceed"),
        ({}, {"shift": 0}, "shift must be a positive number"),
        ({}, {"guidance": {"kind": "embedded", "default": 2}}, "must agree"),
        ({}, {"guidance": {"kind": "strong", "default": 2}}, "one of embedded, mixed, none"),
        ({}, {"guidance": {"kind": "mixed", "default": 12}}, "must lie in guidance.range"),
        ({}, {"guidance": {"kind": "mixed", "default": 2, "range": [5]}}, "range must be two numbers"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, official: dict[str, Any], side: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        config.load(folder(tmp_path, official, side))


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        config.load(folder(tmp_path, {"num_layers": None, "in_channels": -1}, {"prediction": "noise"}))
    assert len(caught.value.problems) >= 3


@pytest.mark.parametrize("name", ["config.json", "sensorium.json"])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: str | None) -> None:
    path = folder(tmp_path) / name
    path.unlink() if content is None else path.write_text(content, "utf-8")
    with pytest.raises(SettingsError, match=name):
        config.load(tmp_path)
