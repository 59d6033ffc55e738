"""Writes small drawing models with random weights, in the shipped format, for tests. No training, no third-party writer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensorium.engines.flow_image import numpy_model, text, world
from sensorium.engines.flow_image.config import TextConfig, TransformerConfig

TRANSFORMER = TransformerConfig(
    in_channels=48,
    num_layers=2,
    num_single_layers=3,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    pooled_projection_dim=32,
    guidance_embeds=False,
    axes_dims_rope=(4, 4, 8),
)
TEXT = TextConfig("text_encoder.safetensors", slots=20, width=32, layers=2, heads=2, ffn=48, pad_token_id=0)
SIZE, PATCH = 16, 4


def official(config: TransformerConfig) -> dict[str, Any]:
    """The config.json of a model."""
    fields = {name: getattr(config, name) for name in TransformerConfig.__dataclass_fields__}
    return {"_class_name": "FluxTransformer2DModel", "patch_size": 1, **fields, "axes_dims_rope": list(config.axes_dims_rope)}


def side(config: TextConfig = TEXT, **changes: Any) -> dict[str, Any]:
    """The sensorium.json of a model."""
    encoder = {name: getattr(config, name) for name in TextConfig.__dataclass_fields__}
    image = {"size": SIZE, "patch": PATCH, "range": [-1, 1]}
    steps = {"default": 4, "max": 50}
    base = {
        "format": 1,
        "kind": "flow_image",
        "scope": "synthetic-scenes",
        "image": image,
        "prediction": "x0",
        "shift": 1.5,
        "steps": steps,
    }
    return {**base, "guidance": {"kind": "mixed", "default": 1.0, "range": [1.0, 9.0]}, "text_encoder": encoder, **changes}


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, NDArray[np.float32]]:
    """Numbers of the size that trained layers have; gains near one."""
    generator = np.random.default_rng(seed)

    def one(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        scale = 0.1 if len(shape) == 1 else shape[1] ** -0.5
        start = 1.0 if "norm_" in name and name.endswith("weight") and len(shape) == 1 else 0.0
        return (start + scale * generator.standard_normal(shape)).astype(np.float32)

    return {name: one(name, shape) for name, shape in shapes.items()}


def safetensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a safetensors file of float32 and int8 tensors."""
    header: dict[str, Any] = {}
    position = 0
    for name, tensor in tensors.items():
        kind = {"float32": "F32", "int8": "I8"}[str(tensor.dtype)]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [position, position + tensor.nbytes]}
        position += tensor.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(tensor.tobytes() for tensor in tensors.values()))


def tokenizer() -> dict[str, Any]:
    """One token for each word of the world and for the comma; padding is id 0."""
    names = [*world.COLOURS, *world.SHAPES, *world.PLURALS.values(), *world.SIZES, *world.NUMBERS]
    phrases = [*world.SURFACES, *world.POSITION_PHRASES.values(), *world.RELATIONS, "a an on"]
    words = dict.fromkeys(re.findall(r"[a-z]+", " ".join([*names, *phrases])))
    vocabulary = {"<pad>": 0, "<unk>": 1, ",": 2} | {f"▁{word}": place for place, word in enumerate(words, 3)}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    comma = {"type": "Split", "pattern": {"String": ","}, "behavior": "Isolated", "invert": False}
    added = [{"id": 0, "content": "<pad>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    stages = {"normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [metaspace, comma]}}
    return {"version": "1.0", "added_tokens": added, **stages, "post_processor": None, "decoder": None, "model": model}


def write(folder: Path, transformer: TransformerConfig = TRANSFORMER, encoder: TextConfig = TEXT, seed: int = 0, **changes: Any) -> Path:
    """Write a complete model folder and return it; `changes` go to sensorium.json."""
    folder.mkdir(parents=True, exist_ok=True)
    if transformer.guidance_embeds and "guidance" not in changes:
        changes["guidance"] = {"kind": "embedded", "default": 2.0, "range": [1.0, 9.0]}
    (folder / "config.json").write_text(json.dumps(official(transformer)), "utf-8")
    (folder / "sensorium.json").write_text(json.dumps(side(encoder, **changes)), "utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()), "utf-8")
    safetensors(folder / "diffusion_pytorch_model.safetensors", random_tensors(numpy_model.plan(transformer), seed))
    safetensors(folder / encoder.weights, random_tensors(text.plan(encoder, vocabulary_size()), seed + 1))
    return folder


def vocabulary_size() -> int:
    """Rows of the embedding table."""
    return len(tokenizer()["model"]["vocab"])


def shipped_sizes(*, guidance: bool = False) -> tuple[TransformerConfig, TextConfig, dict[str, Any]]:
    """Configs and sensorium.json changes of a model as large as the shipped one."""
    sizes = {"in_channels": 432, "num_single_layers": 4, "attention_head_dim": 64, "num_attention_heads": 3, "axes_dims_rope": (8, 28, 28)}
    transformer = replace(TRANSFORMER, joint_attention_dim=192, pooled_projection_dim=192, guidance_embeds=guidance, **sizes)
    encoder = replace(TEXT, width=192, heads=3, ffn=576)
    return transformer, encoder, {"image": {"size": 96, "patch": math.isqrt(432 // 3), "range": [-1, 1]}}
