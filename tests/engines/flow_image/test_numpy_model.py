"""The fast flow transformer against its slow twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sensorium.engines.flow_image import numpy_model
from sensorium.engines.flow_image.config import TransformerConfig

from . import plain, tiny

SLOTS, GRID = 5, 3
CONFIGS = [
    pytest.param(tiny.TRANSFORMER, id="as in the tests"),
    pytest.param(replace(tiny.TRANSFORMER, guidance_embeds=True), id="guidance"),
    pytest.param(replace(tiny.TRANSFORMER, axes_dims_rope=(0, 8, 8), num_attention_heads=1, num_layers=0), id="no double block"),
    pytest.param(replace(tiny.TRANSFORMER, num_single_layers=0, num_attention_heads=3), id="no single block"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_fast_forward_equals_the_plain_one(config: TransformerConfig) -> None:
    tensors = tiny.random_tensors(numpy_model.plan(config), 3)
    generator = np.random.default_rng(1)
    image = generator.standard_normal((GRID * GRID, config.in_channels), np.float32)
    text = generator.standard_normal((SLOTS, config.joint_attention_dim), np.float32)
    pooled = generator.standard_normal(config.pooled_projection_dim, np.float32)
    model = numpy_model.FluxTransformer(config, tensors, SLOTS, GRID)
    guidance = 2.0 if config.guidance_embeds else None
    times = np.array([1.0, 0.6, 0.1])
    conditioning = model.condition(text, pooled, times, guidance)
    for step, time in enumerate(times):
        expected = plain.forward(tensors, config, image, text, pooled, time, guidance)
        assert np.abs(model.predict(image, conditioning, step) - expected).max() < 1e-4


def test_a_forward_changes_none_of_its_inputs() -> None:
    model = numpy_model.FluxTransformer(tiny.TRANSFORMER, tiny.random_tensors(numpy_model.plan(tiny.TRANSFORMER), 0), SLOTS, GRID)
    generator = np.random.default_rng(2)
    image = generator.standard_normal((GRID * GRID, 48), np.float32)
    conditioning = model.condition(generator.standard_normal((SLOTS, 32), np.float32), np.ones(32, np.float32), np.array([0.5]))
    before = [array.copy() for array in (image, conditioning.context, conditioning.modulation)]
    first, second = model.predict(image, conditioning, 0), model.predict(image, conditioning, 0)
    assert np.array_equal(first, second)
    assert all(np.array_equal(a, b) for a, b in zip(before, (image, conditioning.context, conditioning.modulation), strict=True))


def test_gelu_bears_extreme_values() -> None:
    x = np.array([-1e4, -50, -1, 0, 1, 50, 1e4], np.float32)
    expected = plain.gelu(x.astype(np.float64))
    assert np.allclose(numpy_model.gelu(x, x), expected, atol=1e-6)
