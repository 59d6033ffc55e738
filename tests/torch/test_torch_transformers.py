"""The decoder in torch against transformers' Ministral3: odd shapes, both directions, and positions beyond the official window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Ministral3Config, Ministral3Model

import sensorium
from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.rows import Row
from sensorium.engines.diffusion_vlm.torch_layers import Tables
from sensorium.engines.diffusion_vlm.torch_model import TorchModel
from sensorium.engines.diffusion_vlm.weights import plan
from tests.engines.diffusion_vlm.checkpoints import OFFICIAL_IDS, Variant, write_checkpoint
from tests.torch.decoders import Tiny

SHIPPED = Path(sensorium.__file__).parent / "models" / "scenes-vlm"
OFFICIAL_ROPE = {
    "rope_type": "yarn", "type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384, "beta_fast": 32.0,
    "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
FOLDERS = {
    "plain": Variant({}, {}, OFFICIAL_IDS),
    "wide heads": Variant({"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 20}, {}, OFFICIAL_IDS),
    "one key head": Variant({"num_key_value_heads": 1, "rms_norm_eps": 1e-4, "hidden_size": 40}, {}, OFFICIAL_IDS),
    "official heads and rope": Variant(
        {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 262144}
        | {"rope_parameters": OFFICIAL_ROPE},
        {},
        OFFICIAL_IDS,
    ),
    "shipped": None,
}
CONFIG_KEYS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "rms_norm_eps",
    "vocab_size", "max_position_embeddings", "rope_parameters", "sliding_window",
)  # fmt: skip


class Official:
    """A checkpoint in our hands and in theirs."""

    def __init__(self, path: Path) -> None:
        self.raw: dict[str, Any] = json.loads((path / "config.json").read_text())
        config = read_config(path)
        self.tiny = Tiny(config, dict(checkpoint.load(path, plan(config))))
        model = Ministral3Model(Ministral3Config(**{key: self.raw[key] for key in CONFIG_KEYS}, attn_implementation="eager"))
        named = {name.removeprefix("encoder."): value for name, value in self.tiny.tensors().items() if name.startswith("encoder.")}
        model.load_state_dict({name: named[name] for name in model.state_dict()})
        self.model = model.eval()

    def logits(self, tokens: list[int], visible: torch.Tensor, first: int = 0) -> torch.Tensor:
        hidden = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)[None, None]
        positions = torch.arange(first, first + len(tokens))[None]
        with torch.no_grad():
            states = self.model(input_ids=torch.tensor([tokens]), attention_mask=hidden, position_ids=positions).last_hidden_state[0]
        return states @ self.tiny.tensors()["diffusion_head.weight"].T


@pytest.fixture(scope="module", params=list(FOLDERS))
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Official:
    variant = FOLDERS[request.param]
    return Official(SHIPPED if variant is None else write_checkpoint(tmp_path_factory.mktemp("official"), variant))


def distance(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((got - wanted).abs().max() / wanted.abs().max())


def causal(count: int) -> torch.Tensor:
    return torch.ones(count, count, dtype=torch.bool).tril()


def test_causal_and_bidirectional_rows_after_a_prompt_in_pieces(official: Official) -> None:
    """130 positions: beyond every small window here."""
    tiny = official.tiny
    tokens, model = tiny.tokens(130), tiny.torch()
    both = causal(130)
    both[77:, 77:] = True
    wanted, turned = official.logits(tokens, causal(130)), official.logits(tokens, both)
    assert distance(model.logits(Row(1, 0, tokens, True)), wanted) < 2e-4
    assert distance(model.logits(Row(2, 0, tokens[:50], True)), wanted[:50]) < 2e-4
    assert distance(model.logits(Row(2, 50, tokens[50:77], True)), wanted[50:77]) < 2e-4
    assert distance(model.logits(Row(2, 77, tokens[77:], False)), turned[77:]) < 2e-4
    assert distance(model.logits(Row(2, 77, tokens[77:], True, last=True)), wanted[-1:]) < 2e-4


def test_batches_say_what_transformers_says(official: Official) -> None:
    """Three answers side by side, padded to one length, against whole sequences one by one."""
    tiny = official.tiny
    model = tiny.torch(slots=8, together=True)
    prompts, blocks = [tiny.tokens(count, count) for count in (30, 61, 3)], [tiny.tokens(count, count) for count in (8, 1, 20)]
    slots = (5, 0, 3)
    model.forward([Row(slot, 0, prompt, True) for slot, prompt in zip(slots, prompts, strict=True)])
    rows = [Row(slot, len(prompt), block, False) for slot, prompt, block in zip(slots, prompts, blocks, strict=True)]
    for (best, confidence), prompt, block in zip(model.forward(rows), prompts, blocks, strict=True):
        visible = causal(len(prompt + block))
        visible[len(prompt) :, len(prompt) :] = True
        logits = official.logits(prompt + block, visible)[len(prompt) :].double()
        logits[:, tiny.config.mask] = -torch.inf
        sure, right = logits.softmax(1).max(1)
        assert best.tolist() == right.tolist() and np.allclose(confidence, sure, rtol=1e-3, atol=1e-4)


def shifted(model: TorchModel, first: int) -> TorchModel:
    """The same model whose position 0 is `first`: a gap before it that nobody looks into."""
    model.tables = Tables(*(table[first:] for table in model.tables))
    return model


@pytest.mark.parametrize("together", [False, True])
def test_positions_far_beyond_the_window(official: Official, together: bool) -> None:
    tiny = official.tiny
    last = min(tiny.config.positions, 60_000) - 24
    tokens = tiny.tokens(24, 1)
    for first in {last, *(min(windows * tiny.config.rope.window - 12, last) for windows in (1, 2))}:
        model = shifted(tiny.torch(slots=1, length=first + 24, together=together), first)
        logits = official.logits(tokens, causal(24), first)
        assert distance(model.logits(Row(0, 0, tokens, True)), logits) < 1e-3
        logits[:, tiny.config.mask] = -torch.inf
        best, confidence = model.forward([Row(0, 0, tokens, True)])[0]
        sure, right = logits.double().softmax(1).max(1)
        assert best.tolist() == right.tolist() and np.allclose(confidence, sure, atol=5e-3)
