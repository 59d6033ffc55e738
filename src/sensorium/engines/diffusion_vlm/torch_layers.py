"""The decoder's layer in torch: weights as they are held, rotary tables, and one function that all forwards share.

It does not know buckets, graphs or selection. Plain functions over tensors, so that a compiler sees all of a layer at once.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.engines.diffusion_vlm.numpy_model import yarn_frequencies
from sensorium.engines.diffusion_vlm.torch_adapter import Adapter
from sensorium.engines.diffusion_vlm.torch_attention import attend

SCRATCH = 128
"""Positions at the front of every slot's cache that padding writes to and that only padding reads."""


class Block(NamedTuple):
    """One layer: gains [H], qkv [(heads + 2 kv) * d, H], out [H, heads * d], gate_up [2 F, H], down [H, F].

    `draft_in` [r, heads * d] and `draft_out` [H, r] (the scale multiplied in) are the draft adapter's, if there is one.
    """

    before: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    after: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    draft_in: torch.Tensor | None = None
    draft_out: torch.Tensor | None = None


class Sizes(NamedTuple):
    """The numbers that a layer's arithmetic needs beside its weights."""

    heads: int
    kv_heads: int
    head_dim: int
    eps: float


class Place(NamedTuple):
    """Where the tokens of a forward stand, the same for all layers.

    `rows` [R, 1] and `at` [R, L] are the row and the position in the cache that each token writes; `cosine` [R, L, 1, 1, d / 2] and
    `sine` [R, L, 1, 2, d / 2] turn queries and keys, `growth` [R, L, 1, 1] multiplies queries; `bias` is what `attend` adds to the
    scores, None where everything is seen; `draft` [R, 1, 1] is 1 for rows that use the adapter, 0 for others, None if no row does.
    """

    rows: torch.Tensor
    at: torch.Tensor
    cosine: torch.Tensor
    sine: torch.Tensor
    growth: torch.Tensor
    bias: torch.Tensor | None
    draft: torch.Tensor | None = None


class Tables(NamedTuple):
    """Rotary tables in float32, one line per position: cosine [positions, 1, d / 2], sine [positions, 2, d / 2] with the sign that each
    half of the channels takes the other with, growth of the queries [positions]."""

    cosine: torch.Tensor
    sine: torch.Tensor
    growth: torch.Tensor

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The lines of positions [R, L], shaped as `Place` has them."""
        return self.cosine[positions][:, :, None], self.sine[positions][:, :, None], self.growth[positions][:, :, None, None]


def make_tables(config: VLMConfig, positions: int, device: torch.device) -> Tables:
    """YaRN turns without an extra factor; queries grow with the logarithm of the windows passed. Computed in double precision."""
    position, rope = np.arange(positions), config.rope
    angle = position[:, None] * yarn_frequencies(config.head_dim, rope)
    growth = 1 + rope.query_scale * np.log1p(position // rope.window)
    tables = (np.cos(angle)[:, None], np.stack([-np.sin(angle), np.sin(angle)], axis=1), growth)
    return Tables(*(torch.from_numpy(table.astype(np.float32)).to(device) for table in tables))


class Taken:
    """Takes weights out of a mapping one by one, so that what was fused is not held twice."""

    def __init__(self, weights: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> None:
        self._weights, self._device, self._dtype = weights, device, dtype

    def one(self, name: str) -> torch.Tensor:
        name += ".weight"
        found = self._weights.pop(name) if isinstance(self._weights, MutableMapping) else self._weights[name]
        return found.to(self._device, self._dtype)

    def fused(self, names: list[str]) -> torch.Tensor:
        return torch.cat([self.one(name) for name in names])


def take_blocks(config: VLMConfig, taken: Taken, adapter: Adapter | None, device: torch.device, dtype: torch.dtype) -> list[Block]:
    """All layers, from the checkpoint's names."""
    blocks = []
    for index in range(config.layers):
        layer = f"encoder.layers.{index}."
        block = Block(
            before=taken.one(layer + "input_layernorm"),
            qkv=taken.fused([f"{layer}self_attn.{name}_proj" for name in "qkv"]),
            out=taken.one(layer + "self_attn.o_proj"),
            after=taken.one(layer + "post_attention_layernorm"),
            gate_up=taken.fused([f"{layer}mlp.{name}_proj" for name in ("gate", "up")]),
            down=taken.one(layer + "mlp.down_proj"),
        )
        if adapter is not None:
            scaled = adapter.outward[index] * adapter.scale
            block = block._replace(draft_in=adapter.inward[index].to(device, dtype), draft_out=scaled.to(device, dtype))
        blocks.append(block)
    return blocks


def normalise(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm, computed in float32 and rounded once."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * gain.float()).to(x.dtype)


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Turn channel i with channel i + d / 2. Written without a concatenation, which compilers would make a kernel of its own."""
    halves = x.unflatten(-1, (2, -1))
    return (halves * cosine + halves.flip(-2) * sine).flatten(-2)


def layer(
    x: torch.Tensor, late: torch.Tensor, block: Block, cache: torch.Tensor, place: Place, sizes: Sizes, split: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer over tokens x [R, L, H]; writes their keys and values to `cache` [2, R, kv_heads, K, d].

    `late` is the part of x that the layer before left to be added, so that the sum and the norm are one kernel where they are compiled;
    the result is the same pair.
    """
    heads, keyed = sizes.heads, sizes.heads + sizes.kv_heads
    x = x + late
    qkv = F.linear(normalise(x, block.before, sizes.eps), block.qkv).unflatten(-1, (-1, sizes.head_dim))
    turned = rotate(qkv[:, :, :keyed].float(), place.cosine, place.sine)
    query = (turned[:, :, :heads] * place.growth).to(x.dtype)
    fresh = torch.stack([turned[:, :, heads:].to(x.dtype), qkv[:, :, keyed:]], 2)
    # What is hidden gets the weight 0, and 0 times a NaN that some earlier answer left would be NaN.
    cache[:, place.rows, :, place.at] = torch.nan_to_num(fresh, 0.0, 0.0, 0.0)
    mixed = attend(query, cache[0], cache[1], place.bias, split=split)
    added = F.linear(mixed, block.out)
    if place.draft is not None and block.draft_in is not None:
        added = added + F.linear(F.linear(mixed, block.draft_in), block.draft_out) * place.draft
    x = x + added
    gate, up = F.linear(normalise(x, block.after, sizes.eps), block.gate_up).chunk(2, -1)
    return x, F.linear(F.silu(gate) * up, block.down)
