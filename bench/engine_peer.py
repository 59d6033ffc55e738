"""transformers' own modules on the same weights, run eagerly: what one has without an engine.

A block of masks looks both ways over a cache of the same length, and its ids and confidences come to the host, as in ours. The decoder
layers are called one by one without a mask, since a bidirectional block over a full cache needs none: the quickest fair way to use them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache, Ministral3Config, Ministral3Model
from transformers.models.ministral3.modeling_ministral3 import Ministral3RotaryEmbedding

KEYS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "rms_norm_eps",
    "vocab_size", "max_position_embeddings", "rope_parameters", "sliding_window",
)  # fmt: skip
FORMS = ("sdpa", "eager")


class Peer:
    """Ministral3 with a separate head, over `weights` in official names."""

    def __init__(self, raw: Mapping[str, Any], weights: Mapping[str, torch.Tensor], device: torch.device, mask: int, form: str) -> None:
        config = Ministral3Config(**{key: raw[key] for key in KEYS}, attn_implementation=form)
        with torch.device("meta"):
            self.model = Ministral3Model(config).eval()
        names = [name for name in weights if name.startswith("encoder.") and "vision_tower" not in name and "projector" not in name]
        self.model.load_state_dict({name.removeprefix("encoder."): weights[name] for name in names}, assign=True)
        self.model.rotary_emb = Ministral3RotaryEmbedding(config).to(device)
        self.head = weights["diffusion_head.weight"]
        self.device, self.mask = device, mask
        self.cache = DynamicCache(config=config)

    @torch.inference_mode()
    def fill(self, tokens: Sequence[int]) -> None:
        """Write these tokens causally into the cache, a part at a time."""
        for begin in range(0, len(tokens), 1024):
            part = torch.tensor([list(tokens[begin : begin + 1024])], device=self.device)
            position = torch.arange(begin, begin + part.shape[1], device=self.device)
            later = position[:, None] < torch.arange(begin + part.shape[1], device=self.device)
            mask = torch.zeros(later.shape, dtype=self.head.dtype, device=self.device).masked_fill_(later, -1e9)[None, None]
            self.model(input_ids=part, attention_mask=mask, position_ids=position[None], past_key_values=self.cache, use_cache=True)

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """Logits [n, vocab] of a block after what the cache holds; the cache is as before afterwards."""
        model, start = self.model, self.cache.get_seq_length()
        ids = torch.tensor([list(tokens)], device=self.device)
        position = torch.arange(start, start + len(tokens), device=self.device)[None]
        hidden = model.embed_tokens(ids)
        turns = model.rotary_emb(hidden, position_ids=position)
        for layer in model.layers:
            hidden = layer(
                hidden, attention_mask=None, position_ids=position, past_key_values=self.cache, position_embeddings=turns, is_causal=False
            )
        self.cache.crop(-len(tokens))
        return torch.nn.functional.linear(model.norm(hidden)[0], self.head)

    @torch.inference_mode()
    def forward(self, tokens: Sequence[int]) -> tuple[Any, Any]:
        """Best ids and their confidences on the host, the mask banned."""
        logits = self.logits(tokens).float()
        logits[:, self.mask] = -torch.inf
        top, best = logits.max(-1)
        return best.cpu().numpy(), (top - logits.logsumexp(-1)).exp().cpu().numpy()


def quickest(make: Callable[[str], Peer], measure: Callable[[Peer], float]) -> tuple[str, float]:
    """The attention form that is quicker, and its figure."""
    found = {form: measure(make(form)) for form in FORMS}
    best = min(found, key=found.__getitem__)
    return best, found[best]
