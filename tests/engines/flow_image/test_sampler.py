"""Euler steps with functions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from sensorium.engines.drawing import never
from sensorium.engines.flow_image import sampler
from sensorium.errors import Cancelled


def test_times_run_from_noise_to_data() -> None:
    for steps in (1, 4, 50):
        for shift in (1.0, 1.5, 3.0):
            times = sampler.times(steps, shift)
            assert (times[0], times[-1], len(times)) == (1, 0, steps + 1)
            assert (np.diff(times) < 0).all()
    assert sampler.times(4, 1.5).tolist() == pytest.approx([1, 9 / 11, 0.6, 1 / 3, 0])


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_perfect_prediction_is_reached(steps: int) -> None:
    clean, noise = np.array([0.5, -1], np.float32), np.array([3, 4], np.float32)
    seen = []

    def predict(x: np.ndarray, step: int) -> np.ndarray:
        seen.append((step, x.copy()))
        return clean

    schedule = sampler.times(steps, 1.5)
    assert sampler.sample(predict, noise, schedule, never) == pytest.approx(clean)
    for (step, x), time in zip(seen, schedule[:-1], strict=True):
        assert x == pytest.approx((1 - time) * clean + time * noise, abs=1e-6)
        assert step == schedule.tolist().index(time)


def test_cancelling_ends_between_two_steps() -> None:
    calls: list[int] = []

    def predict(x: np.ndarray, step: int) -> np.ndarray:
        calls.append(step)
        return x

    with pytest.raises(Cancelled):
        sampler.sample(predict, np.ones(2, np.float32), sampler.times(9, 1.0), lambda: len(calls) == 3)
    assert calls == [0, 1, 2]
