"""The same arithmetic written the plain way, in float64 on the official tensor names: no fusing, no cache, no reordered channels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sensorium.engines.diffusion_vlm.config import VLMConfig

Array = NDArray[np.floating]


def rms_norm(x: Array, gain: Array, eps: float) -> Array:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * gain


def rotate(x: Array, angle: Array) -> Array:
    """Half-split layout, one angle per channel pair and row; x [rows, heads, d]."""
    half = x.shape[-1] // 2
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attention(q: Array, k: Array, v: Array, visible: NDArray[np.bool_]) -> Array:
    """One head at a time; q [rows, heads, d], k and v [rows, kv, d]."""
    group = q.shape[1] // k.shape[1]
    out = np.zeros((len(q), q.shape[1], v.shape[-1]))
    for head in range(q.shape[1]):
        score = q[:, head] @ k[:, head // group].T / math.sqrt(q.shape[-1])
        score = np.where(visible, score, -np.inf)
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        out[:, head] = weight / weight.sum(axis=1, keepdims=True) @ v[:, head // group]
    return out.reshape(len(q), -1)


def frequencies(config: VLMConfig) -> Array:
    rope, size = config.rope, config.head_dim
    ends = [size * math.log(rope.window / (2 * math.pi * beta)) / (2 * math.log(rope.theta)) for beta in (rope.beta_fast, rope.beta_slow)]
    low, high = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), size - 1)
    out = []
    for pair in range(size // 2):
        plain = 1 / rope.theta ** (2 * pair / size)
        ramp = min(max((pair - low) / max(high - low, 0.001), 0), 1)
        out.append(plain / rope.factor * ramp + plain * (1 - ramp))
    return np.array(out)


def decoder(w: Mapping[str, Array], config: VLMConfig, x: Array, visible: NDArray[np.bool_]) -> Array:
    """Embeddings of the whole sequence -> logits of every position."""
    position = np.arange(len(x))
    angle = position[:, None] * frequencies(config)
    growth = 1 + config.rope.query_scale * np.log(1 + np.floor(position / config.rope.window))
    x = x.astype(np.float64)
    for index in range(config.layers):
        at = f"encoder.layers.{index}."
        y = rms_norm(x, w[at + "input_layernorm.weight"], config.eps)
        q, k, v = ((y @ w[f"{at}self_attn.{name}_proj.weight"].T.astype(np.float64)).reshape(len(x), -1, config.head_dim) for name in "qkv")
        q = rotate(q, angle) * growth[:, None, None]
        x = x + attention(q, rotate(k, angle), v, visible) @ w[at + "self_attn.o_proj.weight"].T
        y = rms_norm(x, w[at + "post_attention_layernorm.weight"], config.eps)
        gate, up = (y @ w[f"{at}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[at + "mlp.down_proj.weight"].T
    return rms_norm(x, w["encoder.norm.weight"], config.eps) @ w["diffusion_head.weight"].T


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def tower(w: Mapping[str, Array], config: VLMConfig, pixels: Array) -> Array:
    """Pixels [3, h, w] -> patches [n, width]."""
    vision, at = config.vision, "encoder.vision_tower."
    size = vision.patch
    rows, columns = pixels.shape[1] // size, pixels.shape[2] // size
    kernel = w[at + "patch_conv.weight"].astype(np.float64)
    x = np.array(
        [
            [(kernel * pixels[:, r * size : (r + 1) * size, c * size : (c + 1) * size]).sum(axis=(1, 2, 3)) for c in range(columns)]
            for r in range(rows)
        ]
    ).reshape(rows * columns, -1)
    x = rms_norm(x, w[at + "ln_pre.weight"], 1e-5)
    base = [vision.theta ** (-2 * j / vision.head_dim) for j in range(vision.head_dim // 2)]
    angle = np.array([[r * f for f in base[0::2]] + [c * f for f in base[1::2]] for r in range(rows) for c in range(columns)])
    act = gelu if vision.activation == "gelu" else lambda z: z / (1 + np.exp(-z))
    everything = np.ones((len(x), len(x)), bool)
    for index in range(vision.layers):
        layer = f"{at}transformer.layers.{index}."
        y = rms_norm(x, w[layer + "attention_norm.weight"], 1e-5)
        q, k, v = ((y @ w[f"{layer}attention.{name}_proj.weight"].T).reshape(len(x), -1, vision.head_dim) for name in "qkv")
        x = x + attention(rotate(q, angle), rotate(k, angle), v, everything) @ w[layer + "attention.o_proj.weight"].T
        y = rms_norm(x, w[layer + "ffn_norm.weight"], 1e-5)
        gate, up = (y @ w[f"{layer}feed_forward.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (act(gate) * up) @ w[layer + "feed_forward.down_proj.weight"].T
    return x


def projector(w: Mapping[str, Array], config: VLMConfig, x: Array, rows: int, columns: int) -> Array:
    """Patches -> cells: channel slowest inside a cell, then row, then column."""
    at, merge = "encoder.multi_modal_projector.", config.merge
    x = rms_norm(x, w[at + "norm.weight"], config.eps).reshape(rows, columns, -1)
    cells = []
    for r in range(0, rows, merge):
        for c in range(0, columns, merge):
            cells.append([x[r + i, c + j, channel] for channel in range(x.shape[-1]) for i in range(merge) for j in range(merge)])
    merged = np.array(cells) @ w[at + "patch_merger.merging_layer.weight"].T
    return gelu(merged @ w[at + "linear_1.weight"].T) @ w[at + "linear_2.weight"].T
