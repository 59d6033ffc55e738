"""The flow transformer once more, slow and obvious: one official layer at a time, float64, nothing fused. The fast one must equal it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sensorium.engines.flow_image.config import TextConfig, TransformerConfig

Numbers = NDArray[np.float64]
Tensors = Mapping[str, NDArray[np.float32]]


def linear(tensors: Tensors, name: str, x: Numbers) -> Numbers:
    return x @ tensors[name + ".weight"].astype(np.float64).T + tensors[name + ".bias"]


def norm(x: Numbers) -> Numbers:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def gelu(x: Numbers) -> Numbers:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Numbers) -> Numbers:
    return x / (1 + np.exp(-x))


def attention(query: Numbers, key: Numbers, value: Numbers, heads: int) -> Numbers:
    dim, out = query.shape[1] // heads, np.zeros_like(query)
    for head in range(heads):
        part = slice(head * dim, (head + 1) * dim)
        scores = np.exp(query[:, part] @ key[:, part].T / math.sqrt(dim))
        out[:, part] = scores / scores.sum(-1, keepdims=True) @ value[:, part]
    return out


def gained(x: Numbers, gain: NDArray[np.float32], heads: int) -> Numbers:
    split = x.reshape(len(x), heads, -1)
    return (split / np.sqrt((split**2).mean(-1, keepdims=True) + 1e-6) * gain).reshape(x.shape)


def turned(x: Numbers, places: Numbers, axes: tuple[int, ...], heads: int) -> Numbers:
    """Turn neighbouring channels by place x 10000^(-2j / axis), for each head alike."""
    out, dim = x.copy(), sum(axes)
    for token in range(len(x)):
        for head in range(heads):
            channel = head * dim
            for axis, size in enumerate(axes):
                for pair in range(size // 2):
                    angle = places[token, axis] * 10000.0 ** (-2 * pair / size)
                    a, b = x[token, channel], x[token, channel + 1]
                    out[token, channel] = a * math.cos(angle) - b * math.sin(angle)
                    out[token, channel + 1] = a * math.sin(angle) + b * math.cos(angle)
                    channel += 2
    return out


def sinusoid(value: float) -> Numbers:
    angle = 1000 * value * np.exp(-math.log(10000) * np.arange(128) / 128)
    return np.concatenate([np.cos(angle), np.sin(angle)])


def forward(
    tensors: Tensors, config: TransformerConfig, image: Numbers, text: Numbers, pooled: Numbers, time: float, guidance: float | None = None
) -> Numbers:
    heads, axes, slots = config.num_attention_heads, config.axes_dims_rope, len(text)
    parts = {"timestep_embedder": sinusoid(time), "text_embedder": pooled}
    if guidance is not None:
        parts["guidance_embedder"] = sinusoid(guidance)
    names = {part: f"time_text_embed.{part}.linear_" for part in parts}
    vector = silu(sum(linear(tensors, names[part] + "2", silu(linear(tensors, names[part] + "1", value))) for part, value in parts.items()))
    grid = math.isqrt(len(image))
    row, column = np.divmod(np.arange(grid * grid), grid)
    places = np.concatenate([np.zeros((slots, 3)), np.stack([0 * row, row, column], -1)])
    x, c = linear(tensors, "x_embedder", image), linear(tensors, "context_embedder", text)

    def projected(block: str, names: tuple[str, str, str], gains: tuple[str, str], y: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        query, key, value = (linear(tensors, f"{block}.attn.{name}", y) for name in names)
        q, k = (gained(z, tensors[f"{block}.attn.{gain}.weight"], heads) for z, gain in zip((query, key), gains, strict=True))
        return q, k, value

    for i in range(config.num_layers):
        block = f"transformer_blocks.{i}"
        mx = np.split(linear(tensors, f"{block}.norm1.linear", vector), 6)
        mc = np.split(linear(tensors, f"{block}.norm1_context.linear", vector), 6)
        image_part = projected(block, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), norm(x) * (1 + mx[1]) + mx[0])
        names3 = ("add_q_proj", "add_k_proj", "add_v_proj")
        text_part = projected(block, names3, ("norm_added_q", "norm_added_k"), norm(c) * (1 + mc[1]) + mc[0])
        query, key, value = (np.concatenate(pair) for pair in zip(text_part, image_part, strict=True))
        out = attention(turned(query, places, axes, heads), turned(key, places, axes, heads), value, heads)
        x = x + mx[2] * linear(tensors, f"{block}.attn.to_out.0", out[slots:])
        c = c + mc[2] * linear(tensors, f"{block}.attn.to_add_out", out[:slots])
        hidden = gelu(linear(tensors, f"{block}.ff.net.0.proj", norm(x) * (1 + mx[4]) + mx[3]))
        x = x + mx[5] * linear(tensors, f"{block}.ff.net.2", hidden)
        hidden = gelu(linear(tensors, f"{block}.ff_context.net.0.proj", norm(c) * (1 + mc[4]) + mc[3]))
        c = c + mc[5] * linear(tensors, f"{block}.ff_context.net.2", hidden)
    z = np.concatenate([c, x])
    for i in range(config.num_single_layers):
        block = f"single_transformer_blocks.{i}"
        shift, scale, gate = np.split(linear(tensors, f"{block}.norm.linear", vector), 3)
        y = norm(z) * (1 + scale) + shift
        query, key, value = projected(block, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), y)
        out = attention(turned(query, places, axes, heads), turned(key, places, axes, heads), value, heads)
        hidden = gelu(linear(tensors, f"{block}.proj_mlp", y))
        z = z + gate * linear(tensors, f"{block}.proj_out", np.concatenate([out, hidden], -1))
    scale, shift = np.split(linear(tensors, "norm_out.linear", vector), 2)
    return linear(tensors, "proj_out", norm(z[slots:]) * (1 + scale) + shift)


def encode(tensors: Tensors, config: TextConfig, ids: NDArray[np.int64]) -> Numbers:
    x = tensors["embed_tokens.weight"].astype(np.float64)[ids] + tensors["embed_positions.weight"]
    for i in range(config.layers):
        layer, y = f"layers.{i}.", norm(x)
        query, key, value = (linear(tensors, f"{layer}{name}_proj", y) for name in "qkv")
        x = x + linear(tensors, f"{layer}o_proj", attention(query, key, value, config.heads))
        x = x + linear(tensors, f"{layer}fc2", gelu(linear(tensors, f"{layer}fc1", norm(x))))
    return x
