"""The decoder on a GPU: recorded graphs, compiled kernels and batches give what plain forwards give, and nothing falls back."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.engine_shapes import RandomWeights
from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.engines.diffusion_vlm.numpy_model import NumpyModel
from sensorium.engines.diffusion_vlm.rows import Row
from sensorium.engines.diffusion_vlm.torch_model import TorchModel
from tests.engines.diffusion_vlm.checkpoints import random_weights
from tests.gpu.shapes import SHAPES, Shape, agreeing, apart, mixed, model, one_by_one, prompts, tokens

PLAIN = {"graphs": False, "compile": False, "attention": "sdpa"}
# Random logits in bfloat16 stand so close together now and then that another order of summing names another id.
MOSTLY = 0.8


@pytest.fixture(params=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.param]


@pytest.fixture
def config(shape: Shape, tmp_path: Path) -> VLMConfig:
    return shape.config(tmp_path)


def test_a_graph_answers_as_the_eager_forward_does(shape: Shape, config: VLMConfig, device: torch.device) -> None:
    eager, recorded = (model(config, shape, device, **{**PLAIN, "graphs": graphs}) for graphs in (False, True))
    for made in (eager, recorded):
        made.forward(prompts(config))
    wanted = eager.forward(mixed(config))
    for _ in range(3):
        answers = recorded.forward(mixed(config))
        assert agreeing(answers, wanted) == 1.0
        assert apart(answers, wanted) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "split", "auto"])
def test_nothing_falls_back(
    shape: Shape, config: VLMConfig, device: torch.device, attention: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Compiled and recorded as served, in every form of attention: within the margin, and without a word about something slower."""
    plain, served = model(config, shape, device, **PLAIN), model(config, shape, device, attention=attention)
    with caplog.at_level(logging.WARNING, "sensorium"):
        for made in (plain, served):
            made.forward(prompts(config))
        for _ in range(3):
            answers = served.forward(mixed(config))
    wanted = plain.forward(mixed(config))
    assert [record.getMessage() for record in caplog.records] == []
    assert agreeing(answers, wanted) >= (1.0 if shape.dtype == torch.float32 else MOSTLY)
    assert apart(answers, wanted) < shape.margin


def test_a_batch_answers_as_its_rows_alone(shape: Shape, config: VLMConfig, device: torch.device) -> None:
    made = model(config, shape, device)
    made.forward(prompts(config))
    together, singles = made.forward(mixed(config)), one_by_one(made, mixed(config))
    assert agreeing(together, singles) >= (1.0 if shape.dtype == torch.float32 else MOSTLY)
    assert apart(together, singles) < shape.margin


def test_rows_leave_other_slots_alone(shape: Shape, config: VLMConfig, device: torch.device) -> None:
    """To the last bit: slot 1 lies inside the batches that the others run in."""
    made = model(config, shape, device)
    made.forward(prompts(config))
    asked = Row(1, 300, [config.mask] * 32, False)
    before = made.forward([asked])[0]
    for row in mixed(config):
        if row.slot != 1:
            made.forward([row])
    made.forward([row for row in mixed(config) if row.slot != 1])
    made.copy(0, 2, 40)
    after = made.forward([asked])[0]
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])


def test_a_copied_beginning_answers_as_its_source(shape: Shape, config: VLMConfig, device: torch.device) -> None:
    made = model(config, shape, device, **PLAIN)
    made.forward([Row(2, 0, tokens(config, 300, 0), True, last=True)])
    made.copy(2, 3, 300)
    block = [config.mask] * 32
    one, other = made.forward([Row(2, 300, block, False)])[0], made.forward([Row(3, 300, block, False)])[0]
    assert np.array_equal(one[0], other[0])
    assert np.allclose(one[1], other[1], atol=shape.margin)


def test_a_row_that_is_no_number_spoils_no_other(shape: Shape, config: VLMConfig, device: torch.device) -> None:
    """Neither the rows beside it nor what its slot holds later."""
    weights = dict(RandomWeights(config, device, shape.dtype))
    weights["encoder.embed_tokens.weight"][77] = torch.nan
    made = TorchModel(config, weights, device=device, dtype=shape.dtype, slots=4, length=2048)
    healthy = [Row(0, 0, [5, 6, 7, 8], True), Row(1, 0, [9, 10, 11, 12], True)]
    wanted = made.forward(healthy)
    beside, spoiled = made.forward([healthy[0], replace(healthy[1], tokens=[9, 10, 77, 77])])
    assert np.isnan(spoiled[1][2:]).all()
    for answers in ([beside, wanted[1]], made.forward(healthy)):
        for found, right in zip(answers, wanted, strict=True):
            assert np.array_equal(found[0], right[0])
            assert np.array_equal(found[1], right[1])
    after = made.forward([Row(1, 4, [5, 6, 7, 8], False)])[0]
    assert np.isfinite(after[1]).all()


def test_float32_equals_numpy(tmp_path: Path, device: torch.device) -> None:
    """With the matrix units' short float32 off, which is torch's own choice."""
    shape = SHAPES["tiny, float32"]
    config = shape.config(tmp_path)
    weights = random_weights(config, 3)
    slow = NumpyModel(config, weights)
    slow.reserve(1, 512)
    moved = {name: torch.from_numpy(values).to(device) for name, values in weights.items()}
    fast = TorchModel(config, moved, device=device, dtype=torch.float32, slots=1, length=512)
    assert torch.get_float32_matmul_precision() == "highest"
    asked = tokens(config, 200, 0)
    for row in (Row(0, 0, asked, True), Row(0, 200, [config.mask] * 32, False)):
        (ids, confidence), (wanted, sure) = fast.forward([row])[0], slow.forward([row])[0]
        assert np.array_equal(ids, wanted)
        assert np.allclose(confidence, sure, atol=1e-4)


def test_transformers_computes_the_same_at_full_width(tmp_path: Path, device: torch.device) -> None:
    """An independent implementation over the same weights, with the full sizes of two layers."""
    from bench.engine_peer import Peer

    shape = SHAPES["two layers of the 8B, bfloat16"]
    config = shape.config(tmp_path)
    made = model(config, shape, device)
    asked = tokens(config, 1000, 1)
    made.forward([Row(0, 0, asked, True, last=True)])
    block = [*tokens(config, 16, 2), *[config.mask] * 16]
    ours = made.logits(Row(0, 1000, block, False))
    peer = Peer(shape.raw, RandomWeights(config, device, shape.dtype), device, config.mask, "sdpa")
    peer.fill(asked)
    theirs = peer.logits(block).float()
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 0.05
