"""The draft adapter of a checkpoint: low-rank additions to the attention's output matrices, for speculative passes only.

It changes how many drafted tokens are accepted, never an answer, since verification runs without it. PEFT's file format, read strictly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sensorium.engines import weights
from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.errors import SettingsError

FOLDER = "linear_spec_lora"
NAME = "base_model.model.encoder.layers.{}.self_attn.o_proj.lora_{}.weight"
PLAIN: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("target_modules", (["o_proj"], "o_proj")),
    ("bias", ("none",)),
    ("use_rslora", (False,)),
    ("use_dora", (False,)),
    ("fan_in_fan_out", (False,)),
    ("rank_pattern", ({},)),
    ("alpha_pattern", ({},)),
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """`inward` [r, heads * head_dim] and `outward` [hidden, r] of each layer; their product times `scale` is added to o_proj."""

    scale: float
    inward: Sequence[torch.Tensor]
    outward: Sequence[torch.Tensor]


def load_adapter(folder: Path, config: VLMConfig) -> Adapter:
    """Read `adapter_config.json` and `adapter_model.safetensors` in `folder`, as float32 on the CPU.

    Raises SettingsError, once per file, with everything that is missing, unexpected or not supported.
    """
    rank, alpha = _read_settings(folder / "adapter_config.json")
    queries = config.heads * config.head_dim
    shapes = {"A": (rank, queries), "B": (config.hidden, rank)}
    plan = {NAME.format(index, part): shape for index in range(config.layers) for part, shape in shapes.items()}
    tensors = weights.load_finite(folder, plan, stem="adapter_model")
    inward, outward = ([torch.from_numpy(tensors[NAME.format(index, part)]) for index in range(config.layers)] for part in "AB")
    return Adapter(alpha / rank, inward, outward)


def _read_settings(path: Path) -> tuple[int, float]:
    """Rank and alpha. Settings that change the arithmetic are refused, others ignored."""
    where = f"{path.parent.name}/{path.name}"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{where} cannot be read: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        raise SettingsError([f"{where} is not JSON"]) from error
    if not isinstance(values, dict):
        raise SettingsError([f"{where} is not a mapping"])
    problems = [
        f"{where}: {key} is {values[key]!r}, only {wanted[0]!r} is supported"
        for key, wanted in PLAIN
        if values.get(key) is not None and values[key] not in wanted
    ]
    rank: Any = values.get("r")
    alpha: Any = values.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        problems.append(f"{where}: r is {rank!r}, expected a whole number of at least 1")
    if type(alpha) not in (int, float) or not 0 < alpha < float("inf"):
        problems.append(f"{where}: lora_alpha is {alpha!r}, expected a number above 0")
    if problems:
        raise SettingsError(problems)
    return rank, alpha
