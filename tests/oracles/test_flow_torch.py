"""The drawing engine against the torch module that is trained: same weights, same caption ids, same noise, same picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sensorium.engines.flow_image import noise, numpy_model, sampler, text
from sensorium.engines.flow_image.config import TextConfig, TransformerConfig
from training import flow_model
from training.flow_model import FlowConfig, FlowModel

BASE = FlowConfig(slots=9, vocab_size=30)
STEPS, SHIFT = 4, 1.5


def twin(config: FlowConfig) -> FlowModel:
    """Random weights of the size that trained ones have; a fresh model would draw black, since its output layer starts at zero."""
    torch.manual_seed(4)
    model = FlowModel(config).eval()
    for name, parameter in model.named_parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        start = 1.0 if parameter.ndim == 1 and "norm_" in name and name.endswith("weight") else 0.0
        parameter.data = start + spread * torch.randn_like(parameter)
    return model


def tensors(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def engine_parts(config: FlowConfig, model: FlowModel) -> tuple[numpy_model.FluxTransformer, text.TextEncoder]:
    official = config.official()
    fields = {name: official[name] for name in TransformerConfig.__dataclass_fields__}
    transformer = TransformerConfig(**fields | {"axes_dims_rope": tuple(official["axes_dims_rope"])})
    encoder = TextConfig("text_encoder.safetensors", config.slots, config.joint_attention_dim, config.text_layers, config.text_heads, 0, 0)
    weights = {name: value for name, value in tensors(model.transformer).items() if not name.startswith("turn_")}
    assert {name: value.shape for name, value in weights.items()} == numpy_model.plan(transformer)
    words = tensors(model.text_encoder)
    assert {name: value.shape for name, value in words.items()} == text.plan(replace(encoder, ffn=config.text_ffn), config.vocab_size)
    return numpy_model.FluxTransformer(transformer, weights, config.slots, config.grid), text.TextEncoder(encoder, words)


@pytest.mark.parametrize("guided", [False, True])
def test_the_engine_draws_what_the_trained_module_draws(guided: bool) -> None:
    config = replace(BASE, guidance_embeds=guided)
    model = twin(config)
    transformer, encoder = engine_parts(config, model)
    ids = np.array([3, 9, 27, 1, 14, 2, 0, 0, 0])
    start = noise.normal(11, (config.grid**2, config.in_channels))
    strength = 3.0 if guided else None
    given = {"steps": STEPS, "shift": SHIFT, "guidance": strength}
    expected = flow_model.sample(model, torch.from_numpy(ids)[None], torch.from_numpy(start)[None], **given)
    schedule = sampler.times(STEPS, SHIFT)
    told = transformer.condition(*encoder.encode(ids), schedule[:-1], strength)
    mine = sampler.sample(lambda x, step: transformer.predict(x, told, step), start, schedule, lambda: False)
    picture = flow_model.unpack(torch.from_numpy(mine)[None], config.patch).clamp(-1, 1)
    assert (picture - expected).abs().max() <= 1e-4
    assert picture.std() > 0.1
