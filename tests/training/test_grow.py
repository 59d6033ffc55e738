"""A larger model that begins with a smaller one's weights answers as the smaller one does."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from training import tokenizer
from training.grow import grow
from training.vlm_data import Packer
from training.vlm_model import VisionLanguageModel
from training.vlm_train import smoke_config


def logits(model: VisionLanguageModel) -> torch.Tensor:
    packer = Packer(tokenizer.build(), random.Random(3), 256, 8, 2, noise=0.5, probes=6)
    batch = packer.batch(2)
    with torch.no_grad():
        _, image = model.look(batch.pixels)
        return model.diffusion_head(model.hidden(batch.ids, batch.positions, batch.visible, image, batch.pads))


def test_more_heads_and_layers_change_nothing_at_first() -> None:
    torch.manual_seed(1)
    small = smoke_config() | {"num_attention_heads": 3, "num_key_value_heads": 1}
    large = copy.deepcopy(small) | {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}
    one, two = VisionLanguageModel(small), VisionLanguageModel(large)
    before = logits(two)
    grow(two, dict(one.named_parameters()))
    assert not torch.allclose(before, logits(one), atol=1e-3)
    assert torch.allclose(logits(two), logits(one), atol=1e-5)


@pytest.mark.parametrize(("change", "reason"), [({"hidden_size": 128}, "cannot grow"), ({"num_hidden_layers": 1}, "has no place")])
def test_what_cannot_grow_is_named(change: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        grow(VisionLanguageModel(smoke_config() | change), dict(VisionLanguageModel(smoke_config()).named_parameters()))
