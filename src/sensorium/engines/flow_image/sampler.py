"""Euler's method on the straight paths of a rectified flow, for a network that predicts the clean picture.

It knows neither pictures nor prompts: it moves an array from noise to data over a `predict` function. Equal to the
flow-matching Euler scheduler with a constant shift, fed with the velocity (x - clean) / t.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sensorium.errors import Cancelled

Array = NDArray[np.float32]


def times(steps: int, shift: float) -> NDArray[np.float64]:
    """Noise levels from 1 to 0, [steps + 1]; `shift` above 1 spends more of them near the noise."""
    level = np.linspace(1.0, 0.0, steps + 1)
    return shift * level / (1.0 + (shift - 1.0) * level)


def walk(
    predict: Callable[[Array, int], Array], noise: Array, schedule: NDArray[np.float64], cancelled: Callable[[], bool]
) -> Iterator[Array]:
    """Walk `schedule` from its first level to its last: the array after each step. `predict(x, step)` is the clean one expected at `x`.

    Raises Cancelled when `cancelled()` says so before a step.
    """
    x = noise
    for step, (now, after) in enumerate(pairwise(schedule)):
        if cancelled():
            raise Cancelled("the picture was abandoned before its last step")
        kept = np.float32(after / now)
        x = kept * x + (np.float32(1) - kept) * predict(x, step)
        yield x


def sample(predict: Callable[[Array, int], Array], noise: Array, schedule: NDArray[np.float64], cancelled: Callable[[], bool]) -> Array:
    """What `walk` ends with."""
    *_, last = walk(predict, noise, schedule, cancelled)
    return last
