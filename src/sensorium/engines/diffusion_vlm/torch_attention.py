"""Attention of grouped queries over a cache, in torch: the library's kernels, and the same with the keys split into parts.

The queries of a group are folded into the length, so that keys and values are read where they lie. A kernel works on one block of
queries of one key head at a time, which leaves most of a GPU idle for few rows over a long cache: there the keys are cut into parts that
are attended as if they were heads, and merged by their log-sum-exps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

HIDDEN = -1e30  # finite, so that a part of the keys that is hidden as a whole is a number of weight 0
PART_UNIT = 128
WANTED_PARTS = 16


def hidden_bias(visible: torch.Tensor, group: int, dtype: torch.dtype) -> torch.Tensor:
    """Which keys each query sees, [R, L, K] booleans -> what is added to the scores, [R, 1, group * L, K]."""
    bias = torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, max(HIDDEN, torch.finfo(dtype).min / 2))
    return bias[:, None].expand(-1, group, -1, -1).flatten(1, 2)[:, None]


def parts_of(keys: int) -> int:
    """Into how many equal parts `keys` are split: at most 16 if they divide so, and 1 if there is no whole number of units."""
    units, rest = divmod(keys, PART_UNIT)
    if rest or units < 2:
        return 1
    divisors = [parts for parts in range(2, units + 1) if units % parts == 0]
    return max((parts for parts in divisors if parts <= WANTED_PARTS), default=divisors[0])


def split_bias(bias: torch.Tensor, kv_heads: int, parts: int) -> torch.Tensor:
    """A bias [R, 1, n, K] as `attend_split` takes it: [R * kv_heads, parts, n, K / parts]."""
    spread = bias.expand(-1, kv_heads, -1, -1).flatten(0, 1)
    return spread.unflatten(2, (parts, -1)).transpose(1, 2)


def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None, *, split: bool) -> torch.Tensor:
    """Queries [R, L, heads, d] over keys and values [R, kv_heads, K, d] -> [R, L, heads * d].

    `bias` is that of `hidden_bias`, or of `split_bias` if `split`; None where everything is seen.
    """
    rows, length, heads, width = query.shape
    kv_heads = keys.shape[1]
    folded = query.unflatten(2, (kv_heads, heads // kv_heads)).permute(0, 2, 3, 1, 4).reshape(rows, kv_heads, -1, width)
    if split and bias is not None:
        out = attend_split(folded, keys, values, bias)
    else:
        out = F.scaled_dot_product_attention(folded, keys, values, bias)
    mixed = out.unflatten(2, (heads // kv_heads, length)).permute(0, 3, 1, 2, 4)
    # Through two dimensions: a length of 1 would keep a stride with which the next product is one for each row, with the weights read anew.
    return mixed.reshape(rows * length, heads * width).unflatten(0, (rows, length))


def attend_split(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Queries [R, kv_heads, n, d] over keys and values in the parts that `bias` has -> [R, kv_heads, n, d]."""
    rows, kv_heads = query.shape[:2]
    parts = bias.shape[1]
    pieces = [whole.flatten(0, 1).unflatten(1, (parts, -1)) for whole in (keys, values)]
    spread = query.flatten(0, 1).unsqueeze(1).expand(-1, parts, -1, -1)
    out, total = attend_parts(spread, pieces[0], pieces[1], bias)
    weight = torch.softmax(total, dim=1).unsqueeze(-1)
    return (out.float() * weight).sum(1).to(query.dtype).unflatten(0, (rows, kv_heads))


def attend_parts(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention within each part, and the log of the sum of exponentials of its scores [B, parts, n] in float32."""
    if query.is_cuda:
        out, total, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(query, keys, values, bias, True)
        return out, total.narrow(2, 0, query.shape[2])  # its lines are padded
    scores = (query @ keys.transpose(2, 3)).float() / math.sqrt(query.shape[3]) + bias
    total = scores.logsumexp(3)
    return (scores - total[..., None]).exp().to(values.dtype) @ values, total
