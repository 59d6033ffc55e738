"""Our cubic resizing against OpenCV's INTER_CUBIC on float32, which the reference preprocessing uses."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sensorium.engines.diffusion_vlm.image import resize_cubic

SIZES = [(200, 300, 224, 308), (97, 61, 28, 28), (700, 1400, 364, 728), (30, 50, 56, 56), (1, 1, 28, 28), (1, 900, 28, 924), (5, 3, 5, 12)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resizing_equals_opencv(size: tuple[int, int, int, int], dtype: type) -> None:
    height, width, tall, wide = size
    picture = np.random.default_rng(3).integers(0, 256, (height, width, 3)).astype(dtype)
    wanted = cv2.resize(picture.astype(np.float32), (wide, tall), interpolation=cv2.INTER_CUBIC).reshape(tall, wide, 3)
    assert np.abs(resize_cubic(picture, tall, wide) - wanted).max() < 255e-4
