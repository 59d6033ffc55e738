"""Begin a larger scenes-vlm with the weights of a smaller one, so that it computes the same at first.

After Net2Net (Chen, Goodfellow and Shlens, 2016): key and value heads are repeated, new query heads and new last layers start with an
output of zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from training.vlm_model import VisionLanguageModel


@torch.no_grad()
def grow(model: VisionLanguageModel, small: Mapping[str, Tensor]) -> None:
    """Fill `model` in place from tensors by official name.

    Raises ValueError when a tensor has no place in the larger model, or when an axis other than the heads' differs.
    """
    places = dict(model.named_parameters())
    for name in small:
        if name not in places:
            raise ValueError(f"{name} has no place in the larger model.")
    for name, place in places.items():
        if name in small:
            place.copy_(_widened(name, small[name], place))
        elif re.search(r"encoder\.layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)\.weight$", name):
            place.zero_()


def _widened(name: str, small: Tensor, place: Tensor) -> Tensor:
    if small.shape == place.shape:
        return small
    if name.endswith(("k_proj.weight", "v_proj.weight")) and place.shape[0] % small.shape[0] == 0:
        return small.repeat(place.shape[0] // small.shape[0], 1)
    if name.endswith("q_proj.weight") and small.shape[1:] == place.shape[1:]:
        return torch.cat([small, place[small.shape[0] :]])
    if name.endswith("o_proj.weight") and small.shape[:1] == place.shape[:1]:
        return torch.cat([small, torch.zeros(place.shape[0], place.shape[1] - small.shape[1])], 1)
    raise ValueError(f"{name}: {tuple(small.shape)} cannot grow to {tuple(place.shape)}.")
