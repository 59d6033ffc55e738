"""Blocks, steps and quotas; refusals that name the nearest valid values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.engines.diffusion_vlm.schedule import Schedule, make_schedule
from sensorium.errors import Unprocessable


@pytest.mark.parametrize(
    ("max_tokens", "steps", "block_length", "wanted"),
    [
        (512, 256, 32, Schedule(16, 32, 16)),
        (512, None, 32, Schedule(16, 32, 16)),
        (100, None, 32, Schedule(4, 32, 64)),
        (320, None, 32, Schedule(10, 32, 26)),
        (8192, None, 8, Schedule(1024, 8, 1)),
        (1, None, 128, Schedule(1, 128, 256)),
        (1, 1, 8, Schedule(1, 8, 1)),
    ],
)
def test_blocks_and_steps(max_tokens: int, steps: int | None, block_length: int, wanted: Schedule) -> None:
    assert make_schedule(max_tokens, steps, block_length) == wanted


@pytest.mark.parametrize(
    ("max_tokens", "steps", "nearest"),
    [
        (512, 100, "96 or 112"),
        (512, 8, "is 16"),
        (512, 15, "is 16"),
        (8192, 1000, "768 or 1024"),
        (8192, 200, "is 256"),
        (672, 1020, "1008"),
    ],
)
def test_a_refusal_names_the_numbers_and_the_nearest_valid_ones(max_tokens: int, steps: int, nearest: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        make_schedule(max_tokens, steps, 32)
    assert caught.value.param == "num_inference_steps"
    assert str(steps) in caught.value.message and str(math.ceil(max_tokens / 32)) in caught.value.message
    assert caught.value.message.endswith(nearest)


@pytest.mark.parametrize("bad", [0, -1, True, 16.0, "16", 1025])
def test_zero_booleans_and_floats_are_never_not_given(bad: object) -> None:
    with pytest.raises(Unprocessable) as caught:
        make_schedule(512, bad, 32)  # type: ignore[arg-type]
    assert caught.value.param == "num_inference_steps" and repr(bad) in caught.value.message


@pytest.mark.parametrize(
    ("name", "bad"), [("max_tokens", 0), ("max_tokens", 8193), ("max_tokens", None), ("block_length", 7), ("block_length", 129)]
)
def test_ranges_are_named(name: str, bad: object) -> None:
    with pytest.raises(Unprocessable) as caught:
        make_schedule(**{"max_tokens": 512, "steps": None, "block_length": 32} | {name: bad})  # type: ignore[arg-type]
    assert caught.value.param == name and repr(bad) in caught.value.message


@given(st.integers(1, 8192), st.integers(8, 128))
def test_default_steps_are_always_valid(max_tokens: int, block_length: int) -> None:
    schedule = make_schedule(max_tokens, None, block_length)
    total = schedule.blocks * schedule.steps
    assert make_schedule(max_tokens, total, block_length) == schedule
    assert total >= 256 and total - schedule.blocks < 256


@given(st.integers(1, 128), st.integers(1, 200))
def test_quotas_cover_a_block_and_favour_early_steps(length: int, steps: int) -> None:
    quotas = Schedule(1, length, steps).quotas()
    assert sum(quotas) == length - 1 and len(quotas) == steps
    assert quotas == sorted(quotas, reverse=True) and quotas[0] - quotas[-1] <= 1
