"""Copies of a checkpoint that are wrong in one place, for tests of what finds it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sensorium.engines.weights import open_tensors
from tests.engines.diffusion_vlm.checkpoints import Floats, write_weights

Weights = dict[str, Floats]


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def config(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the config in place."""
    return json_file(folder, "config.json", change)


def json_file(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))
    return folder


def weights(folder: Path, change: Callable[[Weights], object]) -> Path:
    """Change the tensors, stored as float32 from then on."""
    tensors = dict(open_tensors(folder))
    change(tensors)
    for shard in folder.glob("model*.safetensors*"):
        shard.unlink()
    write_weights(folder, tensors)
    return folder


def swap(tensors: Weights, one: str, other: str) -> None:
    tensors[one], tensors[other] = tensors[other], tensors[one]
