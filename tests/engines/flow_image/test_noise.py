"""The starting noise is fixed for ever: these numbers are part of what a seed means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.engines.flow_image import noise

VECTORS = {
    0: (-0.1177767, 0.9424543, 2.5141597, 0.2620285, 0.5487431, -0.3350593),
    1: (1.1017834, -0.3544455, 1.8666066, -0.6240579, -1.3528702, 0.7073380),
    2**32 - 1: (0.3207061, 1.6291863, -1.1582433, -1.0737950, -0.1044128, 0.3514103),
}


@pytest.mark.parametrize("seed", VECTORS)
def test_the_test_vectors(seed: int) -> None:
    assert np.abs(noise.normal(seed, (2, 3)).reshape(-1) - np.array(VECTORS[seed])).max() < 1e-6


def test_it_is_standard_normal() -> None:
    numbers = noise.normal(7, (200_000,)).astype(np.float64)
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.std() - 1) < 0.01
    assert abs((numbers**3).mean()) < 0.03
    assert abs((numbers**4).mean() - 3) < 0.06
    assert abs(np.corrcoef(numbers[0::2], numbers[1::2])[0, 1]) < 0.01


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_a_shorter_request_is_a_prefix_and_all_are_finite(seed: int, count: int) -> None:
    numbers = noise.normal(seed, (41,))
    assert np.isfinite(numbers).all()
    assert np.array_equal(noise.normal(seed, (count,)), numbers[:count])
