"""Models of the real sizes without the real weights: the 8B's config, random tensors made on the device, a folder that an engine can open.

Prompts use the shipped model's tokenizer and template, since ids do not change what a forward costs. `TINY` has the same parts in sizes
that a CPU computes in milliseconds; its figures say nothing.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import sensorium
from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.engines.diffusion_vlm.weights import plan

SHIPPED = Path(sensorium.__file__).parent / "models" / "scenes-vlm"
PROMPT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
WORDS = range(128, 420)  # ids of the shipped tokenizer that are characters and words
BLOCK = 32

ROPE_8B = {
    "rope_type": "yarn", "type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
TOWER_8B = {
    "model_type": "pixtral", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "head_dim": 64,
    "intermediate_size": 4096, "patch_size": 14, "image_size": 1540, "num_channels": 3, "hidden_act": "silu",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
CONFIG_8B = {
    "model_type": "nemotron_labs_diffusion_vlm", "architectures": ["NemotronLabsDiffusionVLMModel"],
    "hidden_size": 4096, "num_hidden_layers": 34, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "vocab_size": 131073, "mask_token_id": 100, "eos_token_id": 11, "bos_token_id": 1, "block_size": 32,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False, "max_position_embeddings": 262144, "sliding_window": None,
    "rope_parameters": ROPE_8B, "spatial_merge_size": 2, "projector_hidden_act": "gelu", "multimodal_projector_bias": False,
    "vision_feature_layer": -1, "vision_config": TOWER_8B,
}  # fmt: skip
CONFIG_TINY = CONFIG_8B | {
    "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 80, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 449, "max_position_embeddings": 4096, "rope_parameters": ROPE_8B | {"original_max_position_embeddings": 256},
    "vision_config": TOWER_8B
    | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16, "intermediate_size": 40},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is that the stages do. `warm_up` and `repeats` are calls of a timed piece of work."""

    name: str
    raw: Mapping[str, Any]
    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    reaches: tuple[int, ...] = (1024, 2048, 4096, 8192)
    slots: int = 32
    context: int = 8192
    picture: int = 1400
    warm_up: int = 5
    repeats: int = 50
    answer: int = 512
    prompt: int = 512
    requests: int = 1000
    questions: int = 200
    callers: tuple[int, ...] = (1, 8, 32)
    calls_each: int = 3
    copied: int = 2 << 30

    @property
    def tiny(self) -> bool:
        """Whether the sizes only show that the stages run."""
        return self.name == "tiny"


FULL = Scale("8b", CONFIG_8B)
QUICK = replace(
    FULL, rows=(1, 8, 32), reaches=(1024, 8192), repeats=20, answer=256, requests=200, questions=24, callers=(1, 8), calls_each=2
)
TINY = Scale(
    "tiny", CONFIG_TINY, rows=(1, 2, 8), reaches=(64, 128), slots=8, context=512, picture=56, warm_up=1, repeats=2, answer=32, prompt=40,
    requests=24, questions=3, callers=(1, 2), calls_each=1, copied=1 << 20,
)  # fmt: skip


@dataclass(frozen=True)
class RandomWeights(Mapping[str, torch.Tensor]):
    """Tensors of a config in official names, each made when it is asked for, the same every time.

    Nothing is kept, so that what lies on the device is what the model keeps. Outputs keep their size through the layers, and the head is
    sharp enough for best ids to stand out.
    """

    config: VLMConfig
    device: torch.device
    dtype: torch.dtype
    shapes: dict[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", plan(self.config))

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self.shapes[name]
        generator = torch.Generator(self.device).manual_seed(zlib.crc32(name.encode()))
        if len(shape) == 1:
            return torch.rand(shape, generator=generator, device=self.device, dtype=torch.float32).mul_(0.6).add_(0.7).to(self.dtype)
        return torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype).mul_(spread(name, shape))

    def size(self, name: str) -> int:
        """Bytes of a tensor."""
        return math.prod(self.shapes[name]) * torch.finfo(self.dtype).bits // 8

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def spread(name: str, shape: tuple[int, ...]) -> float:
    """The standard deviation of a random matrix."""
    if name.startswith("encoder.embed"):
        return 1.0
    return (3.0 if name == "diffusion_head.weight" else 1.0) / math.sqrt(math.prod(shape[1:]))


def write_prompts(folder: Path, raw: Mapping[str, Any]) -> Path:
    """A folder with this config and the shipped model's tokenizer and template, but no weights. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROMPT_FILES:
        shutil.copyfile(SHIPPED / name, folder / name)
    (folder / "config.json").write_text(json.dumps(raw), "utf-8")
    return folder


def write_checkpoint(folder: Path, raw: Mapping[str, Any], config: VLMConfig) -> Path:
    """A whole checkpoint in bf16 with random weights: as large as the real one. Returns the folder.

    Values are cut out of one pool of random numbers, since drawing billions of them on a CPU takes minutes. The head prefers the words of
    the tokenizer, so that answers are text.
    """
    write_prompts(folder, raw)
    shapes = plan(config)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    pool = np.random.default_rng(0).standard_normal((1 << 24) + 12345, np.float32)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name, shape in shapes.items():
            begin, faint = file.tell(), 0.05 if name == "diffusion_head.weight" else 1.0
            words = bfloat16(1 + 0.1 * pool if len(shape) == 1 else pool * (faint * spread(name, shape)))
            for left in range(math.prod(shape), 0, -len(words)):
                file.write(words[: min(left, len(words))].data)
            if faint < 1:
                file.seek(begin + 2 * WORDS.start * shape[1])
                file.write(bfloat16(pool[: len(WORDS) * shape[1]] * spread(name, shape)).data)
                file.seek(begin + 2 * math.prod(shape))
    return folder


def bfloat16(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """The upper halves of float32 words."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2")
