"""The Pixtral vision tower and the Mistral-3 projector in numpy: pixels of one picture to rows for the decoder.

It does not know resizing, prompts or the decoder. Tensor names are the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from sensorium.engines.diffusion_vlm.config import VisionConfig, VLMConfig
from sensorium.engines.diffusion_vlm.numpy_layers import (
    Floats,
    Turns,
    as_pairs,
    attend,
    feed_forward,
    fuse,
    gelu,
    normalise,
    silu,
    transposed,
    turns,
)

TOWER = "encoder.vision_tower."
PROJECTOR = "encoder.multi_modal_projector."
TOWER_EPS = 1e-5  # fixed in the architecture, no config key
ACTIVATIONS = {"silu": silu, "gelu": gelu}


class Tower:
    """Patches -> layers of full attention within one picture -> merged cells -> rows of the decoder's width."""

    def __init__(self, config: VLMConfig, weights: Mapping[str, Floats]) -> None:
        vision = config.vision
        self.config, self.vision = config, vision
        self.activation = ACTIVATIONS[vision.activation]
        kernel = weights[TOWER + "patch_conv.weight"]
        self.patch = transposed(kernel.reshape(len(kernel), -1))
        self.first_gain = weights[TOWER + "ln_pre.weight"]
        self.blocks = []
        for index in range(vision.layers):
            layer = f"{TOWER}transformer.layers.{index}."
            norms = (layer + "attention_norm", layer + "ffn_norm")
            self.blocks.append(fuse(weights, layer + "attention", norms, layer + "feed_forward", vision.head_dim))
        self.merge = transposed(self._merging_layer(weights))
        self.linear_1, self.linear_2 = (transposed(weights[f"{PROJECTOR}linear_{number}.weight"]) for number in (1, 2))

    def _merging_layer(self, weights: Mapping[str, Floats]) -> Floats:
        """The merger's input reordered from channel-slowest to cell-slowest, with the gain of the norm before it."""
        cells, width = self.config.merge**2, self.vision.hidden
        merging = weights[PROJECTOR + "patch_merger.merging_layer.weight"].reshape(width, width, cells)
        gained = merging * weights[PROJECTOR + "norm.weight"][:, None]
        return gained.swapaxes(1, 2).reshape(width, cells * width)

    def features(self, pixels: Floats) -> Floats:
        """Normalised pixels [3, height, width], whole cells on both sides -> [cells, decoder width], row by row."""
        rows, columns = (side // self.vision.patch for side in pixels.shape[1:])
        return self.project(self.encode(pixels), rows, columns)

    def encode(self, pixels: Floats) -> Floats:
        """Pixels -> one row per patch, without a final norm."""
        vision, size = self.vision, self.vision.patch
        channels, rows, columns = pixels.shape[0], pixels.shape[1] // size, pixels.shape[2] // size
        cut = pixels.reshape(channels, rows, size, columns, size).transpose(1, 3, 0, 2, 4).reshape(rows * columns, -1)
        x = normalise(cut @ self.patch, TOWER_EPS)
        x *= self.first_gain
        turn = grid_turns(rows, columns, vision)
        inner = vision.heads * vision.head_dim
        for block in self.blocks:
            qkv = normalise(x, TOWER_EPS) @ block.qkv
            pairs = as_pairs(qkv[:, : 2 * inner]).reshape(len(x), 2, vision.heads, -1)
            pairs *= turn
            query, keys, values = qkv.reshape(len(x), 3, vision.heads, vision.head_dim).transpose(1, 2, 0, 3)
            mixed = np.empty((len(x), vision.heads, vision.head_dim), np.float32)
            attend(query, keys, values, mixed.swapaxes(0, 1))
            x += mixed.reshape(len(x), inner) @ block.out
            x += feed_forward(normalise(x, TOWER_EPS), block, self.activation)
        return x

    def project(self, x: Floats, rows: int, columns: int) -> Floats:
        """Rows of patches -> merged cells in the decoder's width (exact GELU between the two linear maps)."""
        merge = self.config.merge
        x = normalise(x, self.config.eps).reshape(rows // merge, merge, columns // merge, merge, -1)
        cells = x.swapaxes(1, 2).reshape(rows * columns // merge**2, -1)
        return gelu(np.matmul(np.matmul(cells, self.merge), self.linear_1)) @ self.linear_2


@lru_cache(maxsize=16)
def grid_turns(rows: int, columns: int, vision: VisionConfig) -> Turns:
    """2-D rotary turns [patches, (query, key), 1, head_dim / 2]: even frequencies by row, odd ones by column; scale in the queries."""
    frequency = vision.theta ** (-2.0 * np.arange(vision.head_dim // 2) / vision.head_dim)
    row, column = np.divmod(np.arange(rows * columns), columns)
    turn = turns(np.concatenate([row[:, None] * frequency[0::2], column[:, None] * frequency[1::2]], axis=1))
    return np.stack([turn * np.float32(vision.head_dim**-0.5), turn], axis=1)[:, :, None]
