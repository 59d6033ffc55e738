"""The decoder in numpy float32 with a key-value cache: the forward behind the row seam.

It does not know decoding rules, text or pictures. One thread at a time; the number of BLAS threads is the process's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sensorium.engines.diffusion_vlm.config import Rope, VLMConfig
from sensorium.engines.diffusion_vlm.noise import gumbel
from sensorium.engines.diffusion_vlm.numpy_layers import (
    Block,
    Floats,
    Turns,
    as_pairs,
    attend,
    feed_forward,
    fuse,
    normalise,
    silu,
    transposed,
    turns,
)
from sensorium.engines.diffusion_vlm.rows import Answer, Bits, Row

CAPACITY_STEP = 256


class NumpyModel:
    """Decoder weights, rotary tables and the cache of every slot.

    The two switches undo deviations from the reference for golden comparisons: the mask id may be an output, and confidences are taken
    from logits rounded to bfloat16.
    """

    def __init__(self, config: VLMConfig, weights: Mapping[str, Floats], *, ban_mask: bool = True, float32_confidence: bool = True) -> None:
        self.config = config
        self.ban_mask = ban_mask
        self.float32_confidence = float32_confidence
        self.embeddings = weights["encoder.embed_tokens.weight"]
        self.head = transposed(weights["diffusion_head.weight"] * weights["encoder.norm.weight"])
        self.blocks = []
        for index in range(config.layers):
            layer = f"encoder.layers.{index}."
            norms = (layer + "input_layernorm", layer + "post_attention_layernorm")
            self.blocks.append(fuse(weights, layer + "self_attn", norms, layer + "mlp", config.head_dim))
        self.cache, self.turn = self._room(1, CAPACITY_STEP)

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` answers of up to `length` positions; what is written stays."""
        held = self.cache
        if slots > held.shape[0] or length > held.shape[4]:
            self.cache, self.turn = self._room(max(slots, held.shape[0]), max(length, held.shape[4]))
            self.cache[: held.shape[0], :, :, :, : held.shape[4]] = held

    def _room(self, slots: int, length: int) -> tuple[Floats, Turns]:
        """A zeroed cache [slots, layers, (keys, values), kv_heads, positions, head_dim] and the rotary turns of its positions."""
        config, capacity = self.config, -(-length // CAPACITY_STEP) * CAPACITY_STEP
        cache = np.zeros((slots, config.layers, 2, config.kv_heads, capacity, config.head_dim), np.float32)
        return cache, rope_turns(capacity, config)

    def forward(self, rows: Sequence[Row]) -> list[Answer]:
        """Answer each row on its own, so that a batch equals its singles to the last bit."""
        return [self._select(row, self.logits(row)) for row in rows]

    def logits(self, row: Row) -> Floats:
        """Logits of the row's positions [n, vocab], or of the last one only; writes the row's keys and values."""
        x = self.embeddings[list(row.tokens)]
        if row.features is not None:
            x[row.features.at] = row.features.rows
        start, stop, group = row.start, row.start + len(x), self.config.heads // self.config.kv_heads
        if stop > self.cache.shape[4]:
            raise ValueError(f"positions up to {stop} asked for, the cache holds {self.cache.shape[4]}")
        turn, hidden = self.turn[start:stop], _hidden(len(x), group) if row.causal and len(x) > 1 else None
        final = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            cache = self.cache[row.slot, index, :, :, :stop]
            x = self._layer(x, block, cache, turn, hidden, only_last=row.last and index == final)
        return normalise(x, self.config.eps) @ self.head

    def _layer(self, x: Floats, block: Block, cache: Floats, turn: Turns, hidden: Floats | None, *, only_last: bool) -> Floats:
        """One block over the rows x; `cache` [2, kv, stop, d] ends with the place of their keys and values."""
        config, count = self.config, len(x)
        heads, kv, width = config.heads, config.kv_heads, config.head_dim
        split = heads + kv
        qkv = normalise(x, config.eps) @ block.qkv
        pairs = as_pairs(qkv[:, : split * width]).reshape(count, split, width // 2)
        pairs *= turn
        keyed = qkv.reshape(count, split + kv, width)
        cache[0, :, -count:] = keyed[:, heads:split].swapaxes(0, 1)
        cache[1, :, -count:] = keyed[:, split:].swapaxes(0, 1)
        if only_last:
            x, keyed, hidden, count = x[-1:], keyed[-1:], None, 1
        group = heads // kv
        query = keyed[:, :heads].reshape(count, kv, group, width).swapaxes(0, 1).reshape(kv, count * group, width)
        mixed = np.empty_like(query)
        attend(query, cache[0], cache[1], mixed, hidden)
        mixed = mixed.reshape(kv, count, group, width).swapaxes(0, 1).reshape(count, heads * width)
        x = np.add(x, mixed @ block.out)
        x += feed_forward(normalise(x, config.eps), block, silu)
        return x

    def _select(self, row: Row, logits: Floats) -> Answer:
        """The best id of each row of logits and its softmax probability; overwrites the logits."""
        if self.ban_mask:
            logits[:, self.config.mask] = -np.inf
        if row.allowed is not None:
            logits[~unpacked(row.allowed, logits.shape[1])] = -np.inf
        if row.temperature > 0:
            first = row.start + row.causal + (len(row.tokens) - 1 if row.last else 0)
            noise = np.stack([gumbel(row.seed, first + place, logits.shape[1]) for place in range(len(logits))])
            best = (logits / np.float32(row.temperature) + noise).argmax(axis=1)
        else:
            best = logits.argmax(axis=1)
        if not self.float32_confidence:
            logits = to_bfloat16(logits)
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        confidence = logits[np.arange(len(best)), best] / logits.sum(axis=1)
        return best, confidence if self.float32_confidence else to_bfloat16(confidence)


def yarn_frequencies(head_dim: int, rope: Rope) -> NDArray[np.float64]:
    """Inverse frequencies of the rotary pairs (YaRN, Peng et al. 2023); cosine and sine carry no extra factor.

    The ramp's ends are clamped to the head's channels, which small heads need.
    """
    plain = rope.theta ** (-2.0 * np.arange(head_dim // 2) / head_dim)

    def pair_of(rotations: float) -> float:
        return head_dim * math.log(rope.window / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = max(math.floor(pair_of(rope.beta_fast)), 0), min(math.ceil(pair_of(rope.beta_slow)), head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 0.001), 0, 1)
    return plain * (1 - ramp) + plain / rope.factor * ramp


def rope_turns(positions: int, config: VLMConfig) -> Turns:
    """Turns [positions, heads + kv_heads, head_dim / 2]; the queries' part holds the attention scale and its growth beyond the window."""
    rope, position = config.rope, np.arange(positions)
    turn = turns(position[:, None] * yarn_frequencies(config.head_dim, rope))
    scale = (1 + rope.query_scale * np.log1p(position // rope.window)) * config.head_dim**-0.5
    queries = turn * scale[:, None].astype(np.float32)
    return np.concatenate([np.repeat(queries[:, None], config.heads, axis=1), np.repeat(turn[:, None], config.kv_heads, axis=1)], axis=1)


@lru_cache(maxsize=8)
def _hidden(count: int, group: int) -> Floats:
    """0 where a row may look, -inf at later positions of the same row; one line per position and query of a group."""
    later = np.triu(np.full((count, count), -np.inf, np.float32), 1)
    return np.repeat(later, group, axis=0)


def unpacked(bits: Bits, size: int) -> NDArray[np.bool_]:
    """Words of 32 bits [n, words], the lowest bit first -> flags [n, size]."""
    return np.unpackbits(bits.astype("<u4").view(np.uint8), axis=1, count=size, bitorder="little").astype(bool)


def to_bfloat16(values: Floats) -> Floats:
    """Round to the nearest bfloat16, ties to even, kept as float32."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)
