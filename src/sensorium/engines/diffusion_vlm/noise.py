"""The noise of drawing at a temperature: one definition, computed alike by numpy and torch.

A counter hash (the finaliser of splitmix64, Steele et al. 2014) of seed, predicted position and id gives 52 bits, these a uniform number
in double precision, and that a Gumbel number. So a draw depends on nothing but the three, whatever computes it and in whatever batch.
The hash is written for int64 arrays of either library, whose products wrap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def signed(value: int) -> int:
    """The low 64 bits of a whole number, as an int64 holds them."""
    return ((value + 2**63) & (2**64 - 1)) - 2**63


GOLDEN = signed(0x9E3779B97F4A7C15)
FIRST, SECOND = signed(0xBF58476D1CE4E5B9), signed(0x94D049BB133111EB)


def mixed(x: Any) -> Any:
    """The finaliser of splitmix64 on an int64 array or tensor; shifts are logical."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * FIRST
    x = (x ^ ((x >> 27) & (2**37 - 1))) * SECOND
    return x ^ ((x >> 31) & (2**33 - 1))


def bits(seed: Any, position: Any, ids: Any) -> Any:
    """52 random bits for each id [n, ids], from int64 arrays or tensors: seed and position [n, 1], ids [1, ids]."""
    stream = mixed(mixed(seed + GOLDEN) + position * GOLDEN)
    return (mixed(stream + (ids + 1) * GOLDEN) >> 12) & (2**52 - 1)


def uniform(seed: int, position: int, size: int) -> NDArray[np.float64]:
    """Numbers above 0 and below 1 for the ids 0 to size - 1 at one predicted position."""
    key, place = np.array([[signed(seed)]]), np.array([[position]])
    drawn: NDArray[np.float64] = bits(key, place, np.arange(size)[None])[0].astype(np.float64)
    return (drawn + 0.5) * 2.0**-52


def gumbel(seed: int, position: int, size: int) -> NDArray[np.float32]:
    """Gumbel noise for one predicted position: the same for every pass over it and for every way of decoding."""
    return (-np.log(-np.log(uniform(seed, position, size)))).astype(np.float32)
