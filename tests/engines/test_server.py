"""The engine process seen from inside: which model a folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensorium.engines import server
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.flow_image.engine import FlowImage
from sensorium.errors import SettingsError
from tests.engines.diffusion_vlm.checkpoints import write_checkpoint
from tests.engines.flow_image import tiny


def test_the_kind_is_declared(tmp_path: Path) -> None:
    assert isinstance(server.load(tiny.write(tmp_path / "flow")), FlowImage)
    assert isinstance(server.load(write_checkpoint(tmp_path / "vlm", side={})), DiffusionVLM)


def test_an_official_checkpoint_without_our_file_is_a_vision_model(tmp_path: Path) -> None:
    assert isinstance(server.load(write_checkpoint(tmp_path / "vlm")), DiffusionVLM)


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
        server.load(tmp_path)
