"""Our cubic resizing and the whole preprocessing against OpenCV's INTER_CUBIC on float32, which the reference preprocessing uses."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from sensorium.engines.diffusion_vlm.config import Rope, SideConfig, VisionConfig, VLMConfig
from sensorium.engines.diffusion_vlm.image import MEAN, STD, preprocess, resize_cubic

SIZES = [(200, 300, 224, 308), (97, 61, 28, 28), (700, 1400, 364, 728), (30, 50, 56, 56), (1, 1, 28, 28), (1, 900, 28, 924), (5, 3, 5, 12)]
# Height and width of pictures and the rows and columns of cells that the official rule gives them: longest side 1400, cells of 28 pixels.
PICTURES = [
    ((1, 1), (1, 1)),
    ((1, 1400), (1, 50)),
    ((1400, 1), (50, 1)),
    ((1400, 1400), (50, 50)),
    ((1400, 2800), (25, 50)),
    ((200, 300), (8, 11)),
    ((1, 2800), (1, 50)),
    ((1401, 1399), (50, 50)),
    ((29, 27), (2, 1)),
]
CASES = 40


def wanted(picture: np.ndarray, tall: int, wide: int) -> np.ndarray:
    return cv2.resize(picture.astype(np.float32), (wide, tall), interpolation=cv2.INTER_CUBIC).reshape(tall, wide, 3)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resizing_equals_opencv(size: tuple[int, int, int, int], dtype: type) -> None:
    height, width, tall, wide = size
    picture = np.random.default_rng(3).integers(0, 256, (height, width, 3)).astype(dtype)
    assert np.abs(resize_cubic(picture, tall, wide) - wanted(picture, tall, wide)).max() < 255e-4


def lengths(rng: np.random.Generator, longest: int) -> int:
    """A length from 1 to `longest`, small ones as often as large ones."""
    return int(np.exp(rng.uniform(0, np.log(longest + 1))))


def sizes() -> Iterator[tuple[int, int, int, int]]:
    """Random heights and widths with random targets: each side is enlarged, reduced or kept on its own."""
    rng = np.random.default_rng(11)
    for _ in range(CASES):
        height, width, tall, wide = (lengths(rng, 600) for _ in range(4))
        keep = rng.random(2) < 0.15
        yield height, width, height if keep[0] else tall, width if keep[1] else wide


@pytest.mark.parametrize("size", list(sizes()), ids=str)
def test_any_resizing_equals_opencv(size: tuple[int, int, int, int]) -> None:
    height, width, tall, wide = size
    picture = np.random.default_rng(sum(size)).integers(0, 256, (height, width, 3), np.uint8)
    got = resize_cubic(picture, tall, wide)
    assert (got.shape, got.dtype) == ((tall, wide, 3), np.float32)
    assert np.abs(got - wanted(picture, tall, wide)).max() < 255e-4


def official() -> VLMConfig:
    """A config with the official sizes of patches and cells; the rest does not matter here."""
    vision = VisionConfig(hidden=1024, layers=24, heads=16, head_dim=64, ffn=4096, patch=14, channels=3, activation="silu", theta=1e4)
    rope = Rope(theta=1e6, factor=16, window=16384, beta_fast=32, beta_slow=1, query_scale=0.1)
    return VLMConfig(
        hidden=4096, layers=34, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=131073, eps=1e-5, positions=262144,
        block_size=32, mask=100, ends=frozenset({11}), merge=2, rope=rope, vision=vision,
    )  # fmt: skip


def random_pictures() -> Iterator[tuple[tuple[int, int], None]]:
    rng = np.random.default_rng(12)
    for _ in range(CASES):
        yield (lengths(rng, 2000), lengths(rng, 2000)), None


@pytest.mark.parametrize(("size", "cells"), [*PICTURES, *random_pictures()], ids=str)
def test_preprocessing_equals_the_reference_rule(size: tuple[int, int], cells: tuple[int, int] | None) -> None:
    """Every side limited to 1400 in proportion and rounded up to whole cells, resized by OpenCV at once, then normalised."""
    picture = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    limited = [max(1, round(side / max(1, max(size) / 1400))) for side in size]
    tall, wide = (-(-side // 28) * 28 for side in limited)
    if cells is not None:
        assert (tall, wide) == (28 * cells[0], 28 * cells[1])
    pixels = preprocess(picture, official(), SideConfig())
    reference = (wanted(picture, tall, wide) / 255 - MEAN) / STD
    assert (pixels.shape, pixels.dtype) == ((3, tall, wide), np.float32)
    assert np.abs(pixels * STD[:, None, None] - (reference * STD).transpose(2, 0, 1)).max() < 1e-4
