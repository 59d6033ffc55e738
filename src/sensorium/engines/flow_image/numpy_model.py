"""The flow transformer in numpy: diffusers' FluxTransformer2DModel for one picture at a time, on the official tensor names.

Loading fuses and transposes the weights once; `condition` computes what all steps need in one product; `predict` is one forward.
The module knows neither prompts, pixels nor schedules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensorium.engines.flow_image.config import TransformerConfig

Array = NDArray[np.float32]
SINUSOID = 256
EPSILON = 1e-6
DOUBLE_PARTS, SINGLE_PARTS, LAST_PARTS = 6, 3, 2
_CUBIC = -2 * math.sqrt(2 / math.pi) * 0.044715
_LINEAR = -2 * math.sqrt(2 / math.pi)


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix in its multiplying order [inputs, outputs] and a bias."""

    weight: Array
    bias: Array

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """x [tokens, inputs] -> [tokens, outputs], written to `out` when given."""
        y: Array = np.matmul(x, self.weight, out=out)
        y += self.bias
        return y


@dataclass(frozen=True, slots=True)
class Stream:
    """One side (text or picture) of a double block."""

    qkv: Linear
    out: Linear
    fc1: Linear
    fc2: Linear


@dataclass(frozen=True, slots=True)
class DoubleBlock:
    """Text and picture with their own weights; `gains` [tokens, 2 x heads, head_dim] for queries and keys."""

    text: Stream
    image: Stream
    gains: Array


@dataclass(frozen=True, slots=True)
class SingleBlock:
    """One stream; `inner` gives [query | key | value | mlp], `out` takes [attention | mlp]."""

    inner: Linear
    out: Linear
    gains: Array


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a caption and a schedule fix before the first step: text states [slots, width], modulation [steps, parts, width]."""

    context: Array
    modulation: Array


def plan(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor the transformer must have, with its shape."""
    width, dim = config.width, config.attention_head_dim
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    linear("x_embedder", config.in_channels, width)
    linear("context_embedder", config.joint_attention_dim, width)
    for part, inputs in _embedders(config).items():
        linear(f"time_text_embed.{part}.linear_1", inputs, width)
        linear(f"time_text_embed.{part}.linear_2", width, width)
    for i in range(config.num_layers):
        block = f"transformer_blocks.{i}"
        for side, norm, feed in (_IMAGE_NAMES, "norm1", "ff"), (_TEXT_NAMES, "norm1_context", "ff_context"):
            linear(f"{block}.{norm}.linear", width, DOUBLE_PARTS * width)
            for name in (*side[:3], side[5]):
                linear(f"{block}.attn.{name}", width, width)
            shapes |= {f"{block}.attn.{name}.weight": (dim,) for name in side[3:5]}
            linear(f"{block}.{feed}.net.0.proj", width, 4 * width)
            linear(f"{block}.{feed}.net.2", 4 * width, width)
    for i in range(config.num_single_layers):
        block = f"single_transformer_blocks.{i}"
        linear(f"{block}.norm.linear", width, SINGLE_PARTS * width)
        for name in _IMAGE_NAMES[:3]:
            linear(f"{block}.attn.{name}", width, width)
        shapes |= {f"{block}.attn.{name}.weight": (dim,) for name in _IMAGE_NAMES[3:5]}
        linear(f"{block}.proj_mlp", width, 4 * width)
        linear(f"{block}.proj_out", 5 * width, width)
    linear("norm_out.linear", width, LAST_PARTS * width)
    linear("proj_out", width, config.in_channels)
    return shapes


_IMAGE_NAMES = ("to_q", "to_k", "to_v", "norm_q", "norm_k", "to_out.0")
_TEXT_NAMES = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k", "to_add_out")


def _embedders(config: TransformerConfig) -> dict[str, int]:
    inputs = {"timestep_embedder": SINUSOID, "text_embedder": config.pooled_projection_dim}
    return inputs | ({"guidance_embedder": SINUSOID} if config.guidance_embeds else {})


class FluxTransformer:
    """The network ready to run, for `slots` text tokens and a `grid` x `grid` picture."""

    def __init__(self, config: TransformerConfig, tensors: Mapping[str, Array], slots: int, grid: int) -> None:
        self._config, self._tensors, self._slots = config, tensors, slots
        self._heads, self._width = config.num_attention_heads, config.width
        self._turn = rotation(config.axes_dims_rope, slots, grid)
        self._image_in, self._context_in = self._linear("x_embedder"), self._linear("context_embedder")
        self._embed = {part: [self._linear(f"time_text_embed.{part}.linear_{n}") for n in (1, 2)] for part in _embedders(config)}
        self._doubles = [self._double(f"transformer_blocks.{i}") for i in range(config.num_layers)]
        self._singles = [self._single(f"single_transformer_blocks.{i}") for i in range(config.num_single_layers)]
        self._modulation = self._all_modulations()
        self._out = self._linear("proj_out")
        del self._tensors

    def condition(self, text: Array, pooled: Array, times: NDArray[np.float64], guidance: float | None = None) -> Conditioning:
        """Prepare one caption for all steps: text [slots, joint], pooled [pooled], times [steps] in 0..1."""
        parts = {"timestep_embedder": sinusoid(times), "text_embedder": pooled[None]}
        if self._config.guidance_embeds:
            parts["guidance_embedder"] = sinusoid(np.array([1.0 if guidance is None else guidance]))
        vector = np.zeros((len(times), self._width), np.float32)
        for part, (first, second) in self._embed.items():
            vector += second(_silu(first(parts[part])))
        modulation = self._modulation(_silu(vector)).reshape(len(times), -1, self._width)
        return Conditioning(self._context_in(text), modulation)

    def predict(self, x: Array, conditioning: Conditioning, step: int) -> Array:
        """One forward: noisy picture tokens [grid x grid, in_channels] -> the network's output, of the same shape."""
        parts = conditioning.modulation[step]
        state = np.concatenate([conditioning.context, self._image_in(x)])
        for block in self._doubles:
            self._run_double(block, state, parts[: 2 * DOUBLE_PARTS])
            parts = parts[2 * DOUBLE_PARTS :]
        for single in self._singles:
            self._run_single(single, state, parts[:SINGLE_PARTS])
            parts = parts[SINGLE_PARTS:]
        scale, shift = parts
        return self._out(_modulated(state[self._slots :], scale, shift))

    def _run_double(self, block: DoubleBlock, state: Array, parts: Array) -> None:
        split, sides = self._slots, (block.image, block.text)
        rows = (state[split:], state[:split])
        joint = np.empty((len(state), 3 * self._width), np.float32)
        joints = (joint[split:], joint[:split])
        mods = (parts[:DOUBLE_PARTS], parts[DOUBLE_PARTS:])
        for side, row, target, mod in zip(sides, rows, joints, mods, strict=True):
            side.qkv(_modulated(row, mod[1], mod[0]), out=target)
        mixed = self._attend(joint, block.gains)
        for side, row, seen, mod in zip(sides, rows, (mixed[split:], mixed[:split]), mods, strict=True):
            row += side.out(seen) * mod[2]
            hidden = side.fc1(_modulated(row, mod[4], mod[3]))
            row += side.fc2(gelu(hidden, hidden)) * mod[5]

    def _run_single(self, block: SingleBlock, state: Array, parts: Array) -> None:
        width, (shift, scale, gate) = self._width, parts
        inner = block.inner(_modulated(state, scale, shift))
        joined = np.empty((len(state), 5 * width), np.float32)
        self._attend(inner[:, : 3 * width], block.gains, joined[:, :width])
        gelu(inner[:, 3 * width :], joined[:, width:])
        state += block.out(joined) * gate

    def _attend(self, qkv: Array, gains: Array, out: Array | None = None) -> Array:
        """[tokens, 3 x width] -> [tokens, width]. Queries and keys are normed and turned together; the softmax scale is in the gains."""
        tokens, heads, width = len(qkv), self._heads, self._width
        pair = qkv[:, : 2 * width].reshape(tokens, 2 * heads, -1)
        power = np.einsum("thd,thd->th", pair, pair) / np.float32(pair.shape[-1])
        pair = pair * gains
        pair *= (1 / np.sqrt(power + np.float32(EPSILON)))[:, :, None]
        turned = (pair.view(np.complex64) * self._turn).view(np.float32)
        query, key = turned[:, :heads].transpose(1, 0, 2), turned[:, heads:].transpose(1, 2, 0)
        seen = np.matmul(softmax(np.matmul(query, key)), qkv[:, 2 * width :].reshape(tokens, heads, -1).transpose(1, 0, 2))
        target: Array = np.empty((tokens, width), np.float32) if out is None else out
        target[...] = seen.transpose(1, 0, 2).reshape(tokens, width)
        return target

    def _linear(self, *names: str) -> Linear:
        return fused(self._tensors, *names)

    def _gains(self, block: str, query: str, key: str) -> Array:
        scale = np.float32(self._config.attention_head_dim**-0.5)
        both = [self._tensors[f"{block}.attn.{query}.weight"] * scale, self._tensors[f"{block}.attn.{key}.weight"]]
        return np.repeat(np.stack(both), self._heads, axis=0)

    def _double(self, block: str) -> DoubleBlock:
        def stream(names: tuple[str, ...], feed: str) -> Stream:
            qkv = self._linear(*(f"{block}.attn.{name}" for name in names[:3]))
            out = self._linear(f"{block}.attn.{names[5]}")
            return Stream(qkv, out, self._linear(f"{block}.{feed}.net.0.proj"), self._linear(f"{block}.{feed}.net.2"))

        text = self._gains(block, *_TEXT_NAMES[3:5])[None].repeat(self._slots, axis=0)
        image = self._gains(block, *_IMAGE_NAMES[3:5])[None].repeat(len(self._turn) - self._slots, axis=0)
        return DoubleBlock(stream(_TEXT_NAMES, "ff_context"), stream(_IMAGE_NAMES, "ff"), np.concatenate([text, image]))

    def _single(self, block: str) -> SingleBlock:
        inner = self._linear(*(f"{block}.attn.{name}" for name in _IMAGE_NAMES[:3]), f"{block}.proj_mlp")
        return SingleBlock(inner, self._linear(f"{block}.proj_out"), self._gains(block, *_IMAGE_NAMES[3:5]))

    def _all_modulations(self) -> Linear:
        """Every block's modulation as one product; the 1 of `1 + scale` goes into the bias."""
        layers: list[tuple[str, int, tuple[int, ...]]] = []
        for i in range(self._config.num_layers):
            block = f"transformer_blocks.{i}"
            layers += [(f"{block}.norm1.linear", DOUBLE_PARTS, (1, 4)), (f"{block}.norm1_context.linear", DOUBLE_PARTS, (1, 4))]
        layers += [(f"single_transformer_blocks.{i}.norm.linear", SINGLE_PARTS, (1,)) for i in range(self._config.num_single_layers)]
        layers.append(("norm_out.linear", LAST_PARTS, (0,)))
        joined = self._linear(*(name for name, _, _ in layers))
        ones = np.concatenate([np.isin(np.arange(parts), scales) for _, parts, scales in layers])
        return Linear(joined.weight, joined.bias + np.repeat(ones.astype(np.float32), self._width))


def fused(tensors: Mapping[str, Array], *names: str) -> Linear:
    """The named linear layers side by side, as one product."""
    weight = np.concatenate([tensors[f"{name}.weight"] for name in names]).T
    return Linear(np.ascontiguousarray(weight, np.float32), np.concatenate([tensors[f"{name}.bias"] for name in names]))


def rotation(axes: tuple[int, ...], slots: int, grid: int) -> NDArray[np.complex64]:
    """Rotary turns [slots + grid x grid, 1, head_dim / 2] as complex numbers, which is the official layout of neighbouring pairs.

    Text tokens stand at (0, 0, 0), picture tokens at (0, row, column); theta is 10000 on every axis.
    """
    row, column = np.divmod(np.arange(grid * grid), grid)
    places = np.concatenate([np.zeros((slots, 3)), np.stack([np.zeros(grid * grid), row, column], axis=-1)])
    angles = [places[:, i : i + 1] / 10000.0 ** (np.arange(0, axis, 2) / max(axis, 1)) for i, axis in enumerate(axes)]
    turn: NDArray[np.complex64] = np.exp(1j * np.concatenate(angles, axis=-1)).astype(np.complex64)[:, None]
    return turn


def sinusoid(values: NDArray[np.float64]) -> Array:
    """[n] times in 0..1, or guidance strengths -> [n, 256], cosines first; the official factor of 1000 is applied here.

    Exponents and angles, of up to some thousand radians, are rounded to float32 on purpose: so the weights saw them in training.
    """
    half = SINUSOID // 2
    exponent = np.float32(-math.log(10000.0)) * np.arange(half, dtype=np.float32) / np.float32(half)
    angle = np.float32(1000) * values.astype(np.float32)[:, None] * np.exp(exponent.astype(np.float64)).astype(np.float32)
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)


def gelu(x: Array, out: Array) -> Array:
    """The tanh form of GELU, written as x / (1 + exp(-2u)), which needs one exponential instead of one tanh. `out` may be `x`."""
    u = x * x
    u *= np.float32(_CUBIC)
    u += np.float32(_LINEAR)
    u *= x
    with np.errstate(over="ignore"):
        np.exp(u, out=u)
    u += np.float32(1)
    np.divide(x, u, out=out)
    return out


def softmax(scores: Array) -> Array:
    """Over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def layer_norm(x: Array) -> Array:
    """Layer norm without gain, eps 1e-6."""
    y: Array = x - x.mean(axis=-1, keepdims=True)
    power = np.einsum("td,td->t", y, y) / np.float32(x.shape[-1])
    y *= (1 / np.sqrt(power + np.float32(EPSILON)))[:, None]
    return y


def _modulated(x: Array, scale: Array, shift: Array) -> Array:
    """`scale` already holds the 1 of `1 + scale`."""
    y = layer_norm(x)
    y *= scale
    y += shift
    return y


def _silu(x: Array) -> Array:
    y: Array = x / (1 + np.exp(-x))
    return y
