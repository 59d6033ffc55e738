"""Sheets of 8 x 8 samples for fixed held-out prompts and their first seeds: no picking."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sensorium.engines.flow_image import noise, world
from training import measure, scenes
from training.flow_data import KINDS, Captions
from training.flow_model import FlowModel, sample

COLUMNS = 8
SEED = 9


def held_out_scenes(count: int) -> list[world.Scene]:
    """The same scenes every time; nothing like them is trained on."""
    rng = random.Random(SEED)
    return [scenes.sample(rng, True, tuple(KINDS)).scene for _ in range(count)]


def draw(model: FlowModel, captions: list[str], seeds: list[int], *, steps: int = 4, guidance: float | None = None) -> NDArray[np.uint8]:
    """[n, S, S, 3], with the noise that the shipped engine would use for these seeds."""
    config = model.config
    ids = torch.tensor([Captions(config.slots).ids(caption) for caption in captions])
    start = torch.from_numpy(np.stack([noise.normal(seed, (config.grid**2, config.in_channels)) for seed in seeds]))
    images = sample(model, ids, start, steps=steps, guidance=guidance)
    return ((images + 1) * 127.5).round().to(torch.uint8).numpy()


def sheet(images: NDArray[np.uint8], columns: int = COLUMNS) -> Image.Image:
    """Images [n, S, S, 3] in rows, twice enlarged."""
    count, side = images.shape[0] // columns, images.shape[1]
    joined = images[: count * columns].reshape(count, columns, side, side, 3).transpose(0, 2, 1, 3, 4)
    picture = Image.fromarray(joined.reshape(count * side, columns * side, 3))
    return picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST)


def write(model: FlowModel, path: Path, *, steps: int = 4, guidance: float | None = None) -> float:
    """Draw 64 held-out prompts into `path`; the share of them that measures right."""
    wanted = held_out_scenes(COLUMNS * COLUMNS)
    images = draw(model, [world.canonical(scene) for scene in wanted], list(range(len(wanted))), steps=steps, guidance=guidance)
    sheet(images).save(path)
    return sum(measure.right(image, scene) for image, scene in zip(images, wanted, strict=True)) / len(wanted)
