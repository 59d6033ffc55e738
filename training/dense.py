"""Labels per 12 x 12 patch for the tower: what is there. They feed a throw-away head, never the checkpoint."""

from __future__ import annotations

import string
from typing import Final

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sensorium.engines.flow_image.world import COLOURS, SHAPES, SIZES, SURFACES
from training.glyphs import ADVANCE, GLYPH_HEIGHT, GLYPH_WIDTH
from training.scenes import PIXEL, Layout, letter_corner

LETTERS: Final = string.digits + string.ascii_uppercase
CLASSES: Final = (1 + len(COLOURS), 1 + len(SHAPES) + 1, 1 + len(SIZES), len(SURFACES), 1 + len(LETTERS))
IGNORE: Final = -100
_COLOURS: Final = {colour: i + 1 for i, colour in enumerate(COLOURS)}
_SHAPES: Final = {shape: i + 1 for i, shape in enumerate((*SHAPES, "sign"))}
_SIZES: Final = {size: i + 1 for i, size in enumerate(SIZES)}


def patch_labels(layout: Layout, side: int) -> NDArray[np.int64]:
    """[5, side * side]: colour, shape, size, surface, letter; 0 is nothing there (surface has no 0), -100 is undecided."""
    centre = (np.arange(side) + 0.5) / side
    x, y = centre[None, :], centre[:, None]
    out = np.zeros((5, side, side), np.int64)
    out[3] = SURFACES.index(layout.scene.surface or "")
    margin = 0.45 / side
    for item in layout.placed:
        left, top, right, bottom = item.box
        text = layout.scene.text
        if text is not None:
            left, top = letter_corner(item, text, 0)
            right, bottom = left + ADVANCE * PIXEL * len(text), top + GLYPH_HEIGHT * PIXEL
        near = (x > left - margin) & (x < right + margin) & (y > top - margin) & (y < bottom + margin)
        inside = (x > left) & (x < right) & (y > top) & (y < bottom)
        thing = item.thing
        values = _COLOURS[thing.colour or ""], _SHAPES[thing.shape or ""], _SIZES[thing.size or ""]
        for row, value in enumerate(values):
            out[row][near] = IGNORE
            out[row][inside] = value
        for index, letter in enumerate(text or ""):
            corner_x, corner_y = letter_corner(item, text or "", index)
            column = int((corner_x + GLYPH_WIDTH * PIXEL / 2) * side)
            out[4][int((corner_y + GLYPH_HEIGHT * PIXEL / 2) * side), column] = LETTERS.index(letter) + 1
    return out.reshape(5, -1)


class DenseHead(nn.Module):
    """Norm and one linear layer on the tower's output, and the loss on the labels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.out = nn.Linear(width, sum(CLASSES))

    def forward(self, seen: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """seen [B, P, width], labels [B, 5, P] -> (loss, accuracy on patches that hold something [5])."""
        logits = self.out(F.rms_norm(seen, seen.shape[-1:], self.gain, 1e-5)).split(CLASSES, -1)
        loss = seen.new_zeros(())
        hits = []
        for number, part in enumerate(logits):
            flat, target = part.flatten(0, 1), labels[:, number].flatten()
            something = target > 0 if number != 3 else target >= 0
            nothing = target == 0
            if something.any():
                loss = loss + F.cross_entropy(flat[something], target[something])
                hits.append((flat[something].argmax(-1) == target[something]).float().mean().detach())
            else:
                hits.append(seen.new_ones(()))
            if number != 3 and nothing.any():
                loss = loss + 0.3 * F.cross_entropy(flat[nothing], target[nothing])
        return loss, torch.stack(hits)
