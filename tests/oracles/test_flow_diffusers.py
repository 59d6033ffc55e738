"""The numpy flow transformer and its sampler against diffusers' own module and scheduler, on random weights in fp32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

from sensorium.engines import weights
from sensorium.engines.flow_image import config as configuration
from sensorium.engines.flow_image import numpy_model, sampler
from sensorium.engines.flow_image.config import TransformerConfig
from sensorium.engines.flow_image.engine import TRANSFORMER_FILE

SHAPES = [
    pytest.param((4, 14, 14), 3, False, id="axes 4 14 14"),
    pytest.param((0, 16, 16), 2, False, id="axes 0 16 16"),
    pytest.param((8, 12, 12), 1, True, id="axes 8 12 12 with guidance"),
    pytest.param((8, 28, 28), 3, True, id="shipped axes with guidance"),
]
SLOTS, GRID = 7, 4


def configured(axes: tuple[int, ...], heads: int, guidance: bool) -> TransformerConfig:
    return TransformerConfig(
        in_channels=48,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=sum(axes),
        num_attention_heads=heads,
        joint_attention_dim=40,
        pooled_projection_dim=24,
        guidance_embeds=guidance,
        axes_dims_rope=axes,
    )


def official_twin(config: TransformerConfig) -> FluxTransformer2DModel:
    torch.manual_seed(1)
    fields = {name: getattr(config, name) for name in TransformerConfig.__dataclass_fields__}
    model = FluxTransformer2DModel(patch_size=1, **fields).eval()
    for name, parameter in model.named_parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        start = 1.0 if parameter.ndim == 1 and "norm_" in name and name.endswith("weight") else 0.0
        parameter.data = start + spread * torch.randn_like(parameter)
    return model


def official_forward(
    model: FluxTransformer2DModel, image: np.ndarray, text: np.ndarray, pooled: np.ndarray, time: float, strength: float
) -> np.ndarray:
    row, column = np.divmod(np.arange(GRID * GRID), GRID)
    with torch.no_grad():
        return (
            model(
                hidden_states=torch.from_numpy(image)[None],
                encoder_hidden_states=torch.from_numpy(text)[None],
                pooled_projections=torch.from_numpy(pooled)[None],
                timestep=torch.tensor([time], dtype=torch.float32),
                img_ids=torch.from_numpy(np.stack([np.zeros_like(row), row, column], -1).astype(np.float32)),
                txt_ids=torch.zeros(SLOTS, 3),
                guidance=torch.tensor([strength]) if model.config.guidance_embeds else None,
            )
            .sample[0]
            .numpy()
        )


@pytest.mark.parametrize(("axes", "heads", "guidance"), SHAPES)
def test_a_forward_equals_the_official_module(axes: tuple[int, ...], heads: int, guidance: bool) -> None:
    config = configured(axes, heads, guidance)
    model = official_twin(config)
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    mine = numpy_model.FluxTransformer(config, tensors, SLOTS, GRID)
    generator = np.random.default_rng(0)
    image = generator.standard_normal((GRID * GRID, 48), np.float32)
    text, pooled = generator.standard_normal((SLOTS, 40), np.float32), generator.standard_normal(24, np.float32)
    times = np.array([1.0, 0.37, 0.02])
    conditioning = mine.condition(text, pooled, times, 3.5)
    for step, time in enumerate(times):
        expected = official_forward(model, image, text, pooled, float(time), 3.5)
        assert np.abs(mine.predict(image, conditioning, step) - expected).max() <= 1e-4


def test_the_plan_names_exactly_the_official_tensors() -> None:
    for guidance in (False, True):
        config = configured((8, 12, 12), 2, guidance)
        official = {name: tuple(value.shape) for name, value in official_twin(config).state_dict().items()}
        assert numpy_model.plan(config) == official


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 50])
@pytest.mark.parametrize("shift", [1.0, 1.5, 3.0])
def test_the_sampler_equals_the_official_scheduler(steps: int, shift: float) -> None:
    generator = np.random.default_rng(steps)
    noise, clean = (generator.standard_normal((6, 5), np.float32) for _ in range(2))

    def predict(x: np.ndarray, step: int) -> np.ndarray:
        return np.tanh(0.5 * clean + 0.3 * x + 0.01 * step).astype(np.float32)

    schedule = sampler.times(steps, shift)
    mine = sampler.sample(predict, noise, schedule, lambda: False)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())
    assert np.abs(scheduler.sigmas.numpy() - schedule).max() <= 1e-6
    x = torch.from_numpy(noise)
    for step, time in enumerate(scheduler.timesteps):
        velocity = (x - torch.from_numpy(predict(x.numpy(), step))) / scheduler.sigmas[step]
        x = scheduler.step(velocity, time, x).prev_sample
    assert np.abs(mine - x.numpy()).max() <= 2e-6


def test_diffusers_computes_the_same_from_the_shipped_weights() -> None:
    folder = Path(__file__).parents[2] / "src/sensorium/models/scenes-flow"
    config = configuration.load(folder)
    tensors = weights.load(folder, numpy_model.plan(config.transformer), stem=TRANSFORMER_FILE)
    model = FluxTransformer2DModel.from_config(json.loads((folder / "config.json").read_text("utf-8"))).eval()
    model.load_state_dict({name: torch.from_numpy(tensors[name]) for name in tensors})
    mine = numpy_model.FluxTransformer(config.transformer, tensors, SLOTS, GRID)
    generator = np.random.default_rng(0)
    image = generator.standard_normal((GRID * GRID, config.transformer.in_channels), np.float32)
    text = generator.standard_normal((SLOTS, config.text.width), np.float32)
    conditioning = mine.condition(text, text.mean(0), np.array([0.6]), 2.0)
    expected = official_forward(model, image, text, text.mean(0), 0.6, 2.0)
    assert np.abs(mine.predict(image, conditioning, 0) - expected).max() <= 1e-4
