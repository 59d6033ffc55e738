"""Attention whole and in parts against plain arithmetic, head by head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sensorium.engines.diffusion_vlm.torch_attention import attend, hidden_bias, parts_of, split_bias
from tests.engines.diffusion_vlm import plain

SHAPES = [(1, 1, 8, 2, 1152), (1, 32, 4, 1, 2176), (3, 5, 6, 3, 384), (2, 8, 4, 4, 256)]


def drawn(rows: int, length: int, heads: int, kv_heads: int, keys: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values as views of a longer cache, and what is seen: a span of its own for each query."""
    rng = np.random.default_rng(keys)
    query = torch.tensor(rng.normal(size=(rows, length, heads, 16)), dtype=torch.float32)
    cache = torch.tensor(rng.normal(size=(2, rows + 1, kv_heads, keys + 128, 16)), dtype=torch.float32)[:, :rows, :, :keys]
    begin, end = rng.integers(0, keys // 2, (rows, length, 1)), rng.integers(keys // 2 + 1, keys, (rows, length, 1))
    end[0, 0] = begin[0, 0] + 1  # one sees a single key, so whole parts are hidden from it
    visible = torch.tensor((np.arange(keys) >= begin) & (np.arange(keys) < end))
    return query, cache[0], cache[1], visible


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("split", [False, True])
def test_attention_equals_plain_arithmetic(shape: tuple[int, int, int, int, int], split: bool) -> None:
    rows, length, heads, kv_heads, keys = shape
    query, key, value, visible = drawn(*shape)
    bias = hidden_bias(visible, heads // kv_heads, torch.float32)
    if split:
        bias = split_bias(bias, kv_heads, parts_of(keys))
    out = attend(query, key, value, bias, split=split)
    assert out.shape == (rows, length, heads * 16)
    for row in range(rows):
        by_row = (query[row], key[row].transpose(0, 1), value[row].transpose(0, 1))
        wanted = plain.attention(*(part.double().numpy() for part in by_row), visible[row].numpy())
        assert np.allclose(out[row], wanted, rtol=1e-5, atol=1e-5)


def test_everything_is_seen_without_a_bias() -> None:
    query, key, value, visible = drawn(2, 5, 6, 3, 384)
    everything = hidden_bias(torch.ones_like(visible), 2, torch.float32)
    assert torch.allclose(attend(query, key, value, None, split=False), attend(query, key, value, everything, split=False), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_hides_as_well(dtype: torch.dtype) -> None:
    query, key, value, visible = drawn(1, 5, 4, 2, 384)
    hidden = ~visible.any(1)[0]
    bias = hidden_bias(visible, 2, dtype)
    clean = [attend(query.to(dtype), key.to(dtype), value.to(dtype), bias, split=False)]
    clean.append(attend(query.to(dtype), key.to(dtype), value.to(dtype), split_bias(bias, 2, 3), split=True))
    key[:, :, hidden], value[:, :, hidden] = 99, -99
    dirty = [attend(query.to(dtype), key.to(dtype), value.to(dtype), bias, split=False)]
    dirty.append(attend(query.to(dtype), key.to(dtype), value.to(dtype), split_bias(bias, 2, 3), split=True))
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before, after) and torch.isfinite(after).all()
    assert torch.allclose(clean[0], clean[1], atol=0.03)


@pytest.mark.parametrize(("keys", "parts"), [(128, 1), (200, 1), (256, 2), (1152, 9), (2176, 17), (4224, 11), (8320, 13), (128 * 64, 16)])
def test_parts_are_equal_and_about_sixteen(keys: int, parts: int) -> None:
    assert parts_of(keys) == parts and keys % parts == 0


def test_keys_and_values_are_read_where_they_lie() -> None:
    """Cutting a cache into parts copies nothing of it."""
    cache = torch.zeros(2, 4, 3, 1280, 16)[:, :2, :, :1152]
    pieces = cache[1].flatten(0, 1).unflatten(1, (9, -1))
    assert pieces.shape == (6, 9, 128, 16) and pieces.data_ptr() == cache[1].data_ptr()


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("split", [False, True])
def test_what_comes_out_multiplies_a_matrix_once_for_all_rows(length: int, split: bool) -> None:
    """A product over rows whose strides do not fold becomes one for each row, each of which reads the matrix."""
    query, key, value, visible = drawn(3, length, 4, 2, 384)
    bias = hidden_bias(visible, 2, torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True):  # which is how the compiler sees it
        out = attend(query, key, value, split_bias(bias, 2, parts_of(384)) if split else bias, split=split)
    assert out.stride() == (length * 64, 64, 1)
