"""What only runs on a CUDA device, shape by shape on a CPU: tensors that have a device, a size and strides, but no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sensorium.engines.diffusion_vlm.torch_attention import attend_split
from sensorium.engines.diffusion_vlm.torch_select import logits_of

GPU = torch.device("cuda", 0)
POSITIONS = 8320  # that a slot has


@pytest.fixture(autouse=True)
def no_numbers() -> Iterator[None]:
    with FakeTensorMode():
        yield


class Made(TorchDispatchMode):  # type: ignore[misc]
    """Notes the size of everything that is made and is no view."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.ops.append(str(func))
        views = any(given.alias_info is not None for given in func._schema.arguments)
        self.sizes += [
            one.numel() for one in (result if isinstance(result, tuple) else (result,)) if isinstance(one, torch.Tensor) and not views
        ]
        return result


@pytest.mark.parametrize(("rows", "length", "keys", "parts"), [(1, 32, 1152, 9), (4, 32, 4224, 11), (8, 1, 8320, 13), (1, 1, 2176, 17)])
def test_the_cache_is_attended_in_parts_where_it_lies(rows: int, length: int, keys: int, parts: int) -> None:
    """The kernel exists under its name, takes what it is given, and nothing is copied on the way."""
    whole = torch.empty(2, 32, 8, POSITIONS, 128, dtype=torch.bfloat16, device=GPU)
    sides = [whole.select(0, side).narrow(0, 0, rows).narrow(2, 0, keys) for side in (0, 1)]
    query = torch.empty(rows, 8, 4 * length, 128, dtype=torch.bfloat16, device=GPU)
    bias = torch.empty(rows * 8, parts, 4 * length, keys // parts, dtype=torch.bfloat16, device=GPU)
    with Made() as made:
        out = attend_split(query, sides[0], sides[1], bias)
    assert out.shape == query.shape and out.dtype == query.dtype and out.device == GPU
    assert "aten._scaled_dot_product_efficient_attention.default" in made.ops
    assert "aten.clone.default" not in made.ops  # keys and values lie in no order but the cache's


def test_logits_come_out_of_the_product_in_float32() -> None:
    x, head = (torch.empty(count, 64, dtype=torch.bfloat16, device=GPU) for count in (5, 131104))
    with Made() as made:
        logits = logits_of(x, head)
    assert logits.shape == (5, 131104) and logits.dtype == torch.float32
    assert "aten.mm.dtype" in made.ops and made.sizes == [5 * 131104]
