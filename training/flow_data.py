"""Training batches of the drawing model: pictures, caption ids, pixel weights; and its tokenizer.

A batch is a pure function of (seed, number), so any process may draw any batch and a resumed run continues with the right ones.
It does not know the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from sensorium.engines.flow_image import world
from training import scenes
from training.flow_model import pack

PAD, UNKNOWN = "<pad>", "<unk>"
KINDS: Final[dict[str, float]] = {"single": 0.18, "count": 0.26, "pair": 0.56}  # pairs have most to learn
OBJECT_AREA: Final = 2000.0  # pixels; an object's pixels weigh 1 + this over their number, so that small objects count like large ones
OBJECT_MAX: Final = 6.0
LANDMARKS: Final = (1.0, 0.75, 0.5, 0.25)  # places of a four-step run before the shift
LANDMARK_SHARE: Final = 0.6


@dataclass(frozen=True, slots=True)
class Batch:
    """clean and noise [B, T, C], ids [B, slots], t [B] in 0..1, weight [B, T, C] with mean near 1."""

    clean: Tensor
    noise: Tensor
    ids: Tensor
    t: Tensor
    weight: Tensor


def words() -> list[str]:
    """Every word of canonical captions without signs, padding first."""
    relations = " ".join(world.RELATIONS).split()
    places = " ".join(world.POSITION_PHRASES.values()).split()
    surfaces = " ".join(world.SURFACES).split()
    parts = (*world.NUMBERS[2:], *world.SIZES, *world.COLOURS, *world.SHAPES, *world.PLURALS.values(), *surfaces, *relations, *places)
    return [PAD, UNKNOWN, ",", *sorted({"a", "on", *parts})]


def tokenizer() -> Tokenizer:
    """Words and commas to ids; unknown words become `<unk>`."""
    built = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words())}, unk_token=UNKNOWN))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    return built


class Captions:
    """Captions as rows of exactly `slots` ids. Raises ValueError for a caption that does not fit or has an unknown word."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.known = {word: number for number, word in enumerate(words())}

    def ids(self, caption: str) -> list[int]:
        """One row."""
        parts = caption.replace(",", " ,").split()
        if len(parts) > self.slots or not self.known.keys() >= set(parts):
            raise ValueError(f"{caption!r} is no caption of at most {self.slots} known words")
        return [self.known[part] for part in parts] + [0] * (self.slots - len(parts))


def pixel_weights(layout: scenes.Layout, size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """[size, size]: 1 on the ground, more on objects."""
    weight = np.ones((size, size), np.float32)
    for item in layout.placed:
        left, top, right, bottom = (round(min(max(edge, 0.0), 1.0) * size) for edge in item.box)
        area = max(1, (right - left) * (bottom - top))
        weight[top : bottom + 1, left : right + 1] = 1 + min(OBJECT_MAX, OBJECT_AREA / area)
    return weight


def draw_times(generator: torch.Generator, count: int, shift: float) -> Tensor:
    """[count] times: some spread evenly over the run, most on the four places that a four-step run visits; then shifted."""
    even = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    spot = torch.tensor(LANDMARKS)[torch.randperm(count, generator=generator) % len(LANDMARKS)]
    u = torch.where(torch.rand(count, generator=generator) < LANDMARK_SHARE, spot, even).clamp(min=0.01)
    return shift * u / (1 + (shift - 1) * u)


def batch(seed: int, number: int, count: int, captions: Captions, *, size: int, patch: int, shift: float, blank: float) -> Batch:
    """Batch `number` of a run: `count` fresh pictures; a share `blank` of them comes without its caption."""
    rng = scenes.Calm(f"flow {seed} {number}")
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    kinds = rng.choices(tuple(KINDS), tuple(KINDS.values()), k=count)
    images, rows, weights = [], [], []
    for kind in kinds:
        layout = scenes.sample(rng, False, (kind,))
        images.append(scenes.render(layout, rng, size))
        rows.append([0] * captions.slots if rng.random() < blank else captions.ids(world.canonical(layout.scene)))
        weights.append(pixel_weights(layout, size))
    clean = pack(torch.from_numpy(np.stack(images)).float() / 127.5 - 1, patch)
    weight = torch.from_numpy(np.stack(weights))
    weight = pack((weight / weight.mean())[..., None].expand(*weight.shape, 3), patch)
    noise = torch.randn(clean.shape, generator=generator)
    return Batch(clean, noise, torch.tensor(rows), draw_times(generator, count, shift), weight)
