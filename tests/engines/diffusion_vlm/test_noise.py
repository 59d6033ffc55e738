"""The noise of a temperature: its distribution, its independence, and that it is the published hash."""

from __future__ import annotations

import numpy as np
import pytest

from sensorium.engines.diffusion_vlm.noise import gumbel, signed, uniform

LOW = 2**64 - 1


def splitmix64(state: int, steps: int) -> list[int]:
    """The generator as published, in whole numbers without a bound."""
    out = []
    for _ in range(steps):
        state = (state + 0x9E3779B97F4A7C15) & LOW
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & LOW
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & LOW
        out.append(z ^ (z >> 31))
    return out


def test_the_published_generator_gives_its_published_numbers() -> None:
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (42, 5), (-3, 7), (2**63 + 11, 262143), (2**70 + 1, 1)])
def test_ids_are_the_steps_of_a_generator_that_seed_and_position_start(seed: int, position: int) -> None:
    start = splitmix64(seed & LOW, 1)[0]
    stream = splitmix64((start + (position - 1) * 0x9E3779B97F4A7C15) & LOW, 1)[0]
    wanted = [((number >> 12) + 0.5) * 2.0**-52 for number in splitmix64(stream, 50)]
    assert uniform(seed, position, 50).tolist() == wanted


def test_uniform_numbers_fill_their_range_evenly() -> None:
    drawn = np.concatenate([uniform(9, position, 400) for position in range(500)])
    count, _ = np.histogram(drawn, 64, (0, 1))
    spread = ((count - len(drawn) / 64) ** 2 / (len(drawn) / 64)).sum()
    assert 30 < spread < 110, "chi square with 63 degrees of freedom"
    assert drawn.min() > 0 and drawn.max() < 1


def test_noise_is_gumbel() -> None:
    drawn = np.concatenate([gumbel(3, position, 400) for position in range(200)])
    assert abs(drawn.mean() - 0.5772) < 0.02 and abs(drawn.std() - 1.2825) < 0.02


def test_noise_is_independent_of_neighbours() -> None:
    one, two = gumbel(3, 7, 400), gumbel(3, 8, 400)
    assert len(set(one) & set(two)) == 0 and len(set(one) & set(gumbel(4, 7, 400))) == 0
    assert np.array_equal(one[:100], gumbel(3, 7, 100))
    lines = np.stack([gumbel(seed, position, 4000) for seed in range(4) for position in range(4)])
    assert np.abs(np.corrcoef(lines) - np.eye(16)).max() < 0.07
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.15


def test_the_best_of_logits_and_noise_is_drawn_by_its_probability() -> None:
    probability = np.array([0.5, 0.3, 0.15, 0.05])
    best = [int((np.log(probability) + gumbel(1, position, 4)).argmax()) for position in range(4000)]
    assert np.allclose(np.bincount(best, minlength=4) / 4000, probability, atol=0.03)


def test_noise_never_changes_between_versions() -> None:
    assert np.allclose(gumbel(42, 5, 4), [1.2631954, -1.2457726, 1.4611968, 1.3688858], atol=1e-6)


def test_the_low_64_bits() -> None:
    assert [signed(value) for value in (5, -5, 2**63, 2**64 - 1, 2**64 + 7)] == [5, -5, -(2**63), -1, 7]
