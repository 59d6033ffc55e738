"""The transformer block that decoder and vision tower share, in numpy float32: norm, rotary attention, gated MLP.

It does not know caches, masks beyond the causal one, or tensor names. Layout decisions, taken once at load:
- matrices are transposed to [in, out]; q, k, v and gate, up stand side by side in one matrix each;
- the gain of an RMSNorm is multiplied into the matrix after it;
- the channels of queries and keys are reordered from half-split to neighbouring pairs, so that a rotary turn is one complex product.
  Their dot products, all that attention reads, stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Turns = NDArray[np.complex64]

QUERY_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Block:
    """The matrices of one layer: qkv [H, (heads + 2 kv) * head_dim], out [heads * head_dim, H], gate_up [H, 2 F], down [F, H]."""

    qkv: Floats
    out: Floats
    gate_up: Floats
    down: Floats


def fuse(weights: Mapping[str, Floats], attention: str, norms: tuple[str, str], feed_forward: str, head_dim: int) -> Block:
    """Build a Block from official names: the prefixes of attention and MLP, and the names of the two norms before them."""
    before, after = (weights[name + ".weight"] for name in norms)
    query, key = (to_pairs(weights[f"{attention}.{name}_proj.weight"], head_dim) for name in "qk")
    qkv = np.concatenate([query, key, weights[f"{attention}.v_proj.weight"]])
    gate_up = np.concatenate([weights[f"{feed_forward}.{name}_proj.weight"] for name in ("gate", "up")])
    return Block(
        qkv=transposed(qkv * before),
        out=transposed(weights[f"{attention}.o_proj.weight"]),
        gate_up=transposed(gate_up * after),
        down=transposed(weights[f"{feed_forward}.down_proj.weight"]),
    )


def transposed(matrix: Floats) -> Floats:
    """[out, in] -> [in, out], laid out anew."""
    return np.ascontiguousarray(matrix.T)


def to_pairs(matrix: Floats, head_dim: int) -> Floats:
    """Reorder the output channels of each head: i and i + head_dim/2 become neighbours."""
    return matrix.reshape(-1, 2, head_dim // 2, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)


def normalise(x: Floats, eps: float) -> Floats:
    """RMSNorm of the rows without a gain."""
    size: Floats = np.einsum("ij,ij->i", x, x)
    size *= 1 / x.shape[1]
    size += eps
    np.sqrt(size, out=size)
    return np.divide(x, size[:, None])


def turns(angles: NDArray[np.float64]) -> Turns:
    """Angles -> unit complex numbers, computed in double precision."""
    unit: Turns = np.exp(1j * angles).astype(np.complex64)
    return unit


def as_pairs(x: Floats) -> Turns:
    """View the last axis as complex numbers, one for each pair of neighbouring channels."""
    return x.view(np.complex64)


def attend(query: Floats, keys: Floats, values: Floats, out: Floats, hidden: Floats | None = None) -> None:
    """Softmax attention of [heads, rows, d] over [heads, K, d], written to `out`; queries carry the scale already.

    `hidden` [rows, n], if given, is added to the scores of the last n keys (0 or -inf).
    """
    for begin in range(0, query.shape[1], QUERY_CHUNK):
        some = slice(begin, begin + QUERY_CHUNK)
        scores = query[:, some] @ keys.swapaxes(1, 2)
        if hidden is not None:
            scores[:, :, -hidden.shape[1] :] += hidden[some]
        scores -= scores.max(axis=2, keepdims=True)
        np.exp(scores, out=scores)
        total = scores.sum(axis=2, keepdims=True)
        np.matmul(scores, values, out=out[:, some])
        out[:, some] /= total


def feed_forward(x: Floats, block: Block, activation: Callable[[Floats], Floats]) -> Floats:
    """down(activation(gate(x)) * up(x)) for normalised rows x."""
    both = x @ block.gate_up
    width = both.shape[1] // 2
    inner = activation(both[:, :width])
    inner *= both[:, width:]
    return inner @ block.down


def silu(x: Floats) -> Floats:
    """x * sigmoid(x)."""
    out = np.negative(x)
    with np.errstate(over="ignore"):  # below -88 the quotient is 0, as it should be
        np.exp(out, out=out)
    out += 1
    return np.divide(x, out, out=out)


def gelu(x: Floats) -> Floats:
    """The exact GELU, x * Phi(x), with erf from Abramowitz and Stegun 7.1.26 (error below 1.5e-7)."""
    size = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * size)
    tail = np.full_like(t, 1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail *= t
        tail += np.float32(coefficient)
    tail *= t * np.exp(-size * size) * np.float32(0.5)
    return x * np.where(x < 0, tail, 1 - tail)
