"""The text side of the drawing model: caption -> token ids -> the sequence and the pooled vector that the transformer takes.

It does not know what the words mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sensorium.engines.flow_image.config import TextConfig
from sensorium.engines.flow_image.numpy_model import Array, fused, gelu, layer_norm, softmax
from sensorium.errors import SettingsError, Unprocessable

EMBEDDING = "embed_tokens.weight"


def plan(config: TextConfig, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Every tensor the text encoder must have, with its shape."""
    width, ffn = config.width, config.ffn
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (vocabulary, width), "embed_positions.weight": (config.slots, width)}
    for i in range(config.layers):
        sizes = {**dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (width, width)), "fc1": (ffn, width), "fc2": (width, ffn)}
        for name, shape in sizes.items():
            shapes[f"layers.{i}.{name}.weight"], shapes[f"layers.{i}.{name}.bias"] = shape, shape[:1]
    return shapes


class CaptionTokenizer:
    """A caption as exactly `slots` ids, padded at the end."""

    def __init__(self, path: Path, config: TextConfig) -> None:
        if not path.is_file():
            raise SettingsError([f"{path.parent.name}/{path.name} is missing: the model folder is not complete"])
        self._tokenizer = Tokenizer.from_file(str(path))
        self._config = config

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def ids(self, caption: str) -> NDArray[np.int64]:
        """Raises Unprocessable when the caption needs more slots than the model has."""
        found = self._tokenizer.encode(caption, add_special_tokens=False).ids
        if len(found) > self._config.slots:
            raise Unprocessable(f"prompt: {len(found)} tokens, but the model takes at most {self._config.slots}; say less", param="prompt")
        return np.array(found + [self._config.pad_token_id] * (self._config.slots - len(found)), np.int64)


class TextEncoder:
    """A small bidirectional transformer, norm first, padding included: [slots] ids -> states [slots, width] and their mean [width]."""

    def __init__(self, config: TextConfig, tensors: Mapping[str, Array]) -> None:
        self._heads = config.heads
        self._tokens, self._positions = tensors[EMBEDDING], tensors["embed_positions.weight"]
        self._layers = []
        for i in range(config.layers):
            joint = ("q_proj", "k_proj", "v_proj")
            groups = (joint, ("o_proj",), ("fc1",), ("fc2",))
            self._layers.append([fused(tensors, *(f"layers.{i}.{name}" for name in group)) for group in groups])

    def encode(self, ids: NDArray[np.int64]) -> tuple[Array, Array]:
        """The sequence and the pooled vector."""
        x: Array = self._tokens[ids] + self._positions
        for qkv, out, fc1, fc2 in self._layers:
            x += out(self._attend(qkv(layer_norm(x))))
            hidden = fc1(layer_norm(x))
            x += fc2(gelu(hidden, hidden))
        return x, x.mean(axis=0)

    def _attend(self, qkv: Array) -> Array:
        tokens = len(qkv)
        query, key, value = qkv.reshape(tokens, 3, self._heads, -1).transpose(1, 2, 0, 3)
        scores = softmax(query @ key.transpose(0, 2, 1) * np.float32(query.shape[-1] ** -0.5))
        seen: Array = (scores @ value).transpose(1, 0, 2).reshape(tokens, -1)
        return seen
