"""The starting noise of a picture: the same numbers for the same seed, on every machine and with every numpy release.

numpy promises the raw words of its bit generators, not the numbers of its normal sampler; so the transform to normal numbers is our own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_UNIT = 2.0**-53


def normal(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal numbers of `shape` from the PCG64 stream of `seed` (0 or greater), by Box and Muller's transform.

    Words 2i and 2i + 1 give numbers 2i (cosine) and 2i + 1 (sine); an odd last number drops its partner.
    """
    count = int(np.prod(shape, dtype=np.int64))
    pairs = (count + 1) // 2
    words = np.random.PCG64(seed).random_raw(2 * pairs).reshape(pairs, 2) >> np.uint64(11)
    unit = words.astype(np.float64) * _UNIT
    radius = np.sqrt(-2.0 * np.log(unit[:, 0] + _UNIT))
    angle = 2.0 * np.pi * unit[:, 1]
    numbers = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return numbers.reshape(-1)[:count].astype(np.float32).reshape(shape)
