"""Trains the judge on degraded renders and writes `training/judge/judge.safetensors`; torch only here.

    python -m training.judge_train --minutes 12

One process renders and one learns, so two cores are used. The run is short and starts afresh every time; its schedule is a fraction of
--minutes. The judge shares the renderer with what it judges, but no code, seed or weight. Held-out scenes are never shown to it.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pictures
from PIL import ImageFilter
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from training import export, scenes
from training.judge import CELLS, FOLDER, GLOBAL, LOCAL, Image, normalised, ordered

IGNORE = -100
SEED = 77_000_001
KINDS = {"single": 0.25, "count": 0.2, "pair": 0.55}
BATCH = 48
RATE, WARM_UP = 3e-3, 50
WIDTHS = (24, 48, 96, 48)


def degraded(image: Image, rng: random.Random) -> Image:
    """A render with some of: blur, JPEG, colour shift, contrast, noise."""
    picture = Pictures.fromarray(image)
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.1)))
    if rng.random() < 0.3:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=rng.randint(45, 95))
        picture = Pictures.open(buffer)
    values = np.asarray(picture, np.float32)
    if rng.random() < 0.5:
        values = (values - 128) * rng.uniform(0.88, 1.12) + 128 + np.array([rng.uniform(-10, 10) for _ in range(3)], np.float32)
    if rng.random() < 0.5:
        noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(values.shape, np.float32)
        values = values + noise * np.float32(rng.uniform(1, 12))
    return np.clip(values, 0, 255).astype(np.uint8)


def targets(layout: scenes.Layout) -> tuple[list[int], np.ndarray[Any, np.dtype[np.int64]]]:
    """(one class per GLOBAL, maps [1 + LOCAL, 24, 24]); -100 where nothing is asked."""
    scene = layout.scene
    things, relation = ordered(scene)
    position = things[0].position if scene.kind == "single" else None
    values = {"surface": scene.surface, "position": position, "relation": relation}
    whole = [names.index(str(values[name])) if values[name] else IGNORE for name, names in GLOBAL.items()]
    maps = np.full((1 + len(LOCAL), CELLS, CELLS), IGNORE, np.int64)
    maps[0] = 0
    centres = [(int(min(item.y - item.r, 0.999) * CELLS), int(min(max(item.x, 0.0), 0.999) * CELLS)) for item in layout.placed]
    for row, column in centres:
        maps[0, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = IGNORE
    for (row, column), item in zip(centres, layout.placed, strict=True):
        maps[0, row, column] = 1
        for number, (name, names) in enumerate(LOCAL.items(), 1):
            maps[number, row, column] = names.index(getattr(item.thing, name))
    return whole, maps


class Network(nn.Module):
    """The judge while it learns: the layers of `judge.Judge.outputs`, each convolution followed by a batch norm that is folded in later."""

    def __init__(self) -> None:
        super().__init__()
        one, two, three, four = WIDTHS
        self.stem = nn.ModuleList([_conv(3, one, 5, 2), _conv(one, two, 3, 2)])
        self.down = _conv(two, three, 3, 2)
        self.deep = nn.ModuleList([_conv(three, three, 3, 1) for _ in range(3)])
        self.squeeze = _conv(three, 16, 1, 1)
        self.hidden = nn.Linear(16 * (CELLS // 2) ** 2, 128)
        self.answer = nn.Linear(128, sum(len(names) for names in GLOBAL.values()))
        self.lift, self.side, self.mix = _conv(three, four, 1, 1), _conv(two, four, 1, 1), _conv(four, four, 3, 1)
        self.map = nn.Conv2d(four, 1 + sum(len(names) for names in LOCAL.values()), 1)
        nn.init.constant_(self.map.bias[:1], -4.0)  # type: ignore[index]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stem[1](self.stem[0](x).relu()).relu()
        deep = self.down(fine).relu()
        for layer in self.deep:
            deep = (deep + layer(deep)).relu()
        # rows, columns, channels: the order in which the numpy judge flattens
        whole = self.hidden(self.squeeze(deep).relu().permute(0, 2, 3, 1).flatten(1)).relu()
        wide = functional.interpolate(self.lift(deep), scale_factor=2, mode="nearest")
        return self.answer(whole), self.map(self.mix((wide + self.side(fine)).relu()).relu())


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


def folded(network: Network) -> dict[str, Tensor]:
    """The tensors of `judge.safetensors`: batch norms folded into the convolutions before them."""
    tensors = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Sequential):
            conv, norm = module
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None and norm.running_var is not None
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            tensors[f"{name}.weight"] = conv.weight * gain[:, None, None, None]
            tensors[f"{name}.bias"] = norm.bias - norm.running_mean * gain
    plain = {name: tensor for name, tensor in network.state_dict().items() if name.split(".")[0] in ("hidden", "answer", "map")}
    return {name: tensor.detach().contiguous() for name, tensor in {**tensors, **plain}.items()}


def batch(number: int, count: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    """(pictures [B, 3, 96, 96], classes [B, GLOBAL], maps [B, 1 + LOCAL, 24, 24])."""
    rng = random.Random(SEED + number)
    pictures, classes, maps = [], [], []
    for _ in range(count):
        layout = scenes.sample(rng, False, rng.choices(tuple(KINDS), tuple(KINDS.values())))
        pictures.append(normalised(degraded(scenes.render(layout, rng), rng)))
        whole, local = targets(layout)
        classes.append(whole)
        maps.append(local)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), torch.tensor(classes), torch.from_numpy(np.stack(maps))


class Batches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch by number, without an end: what a loader's process draws while the network learns."""

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        return batch(number)


def loss(scores: Tensor, local: Tensor, classes: Tensor, maps: Tensor) -> Tensor:
    """Cross entropies: whole picture, objectness per cell (a hit weighs as much as 30 misses), attributes at the centres."""
    total = scores.new_zeros(())
    for number, part in enumerate(torch.split(scores, [len(names) for names in GLOBAL.values()], -1)):
        if (classes[:, number] != IGNORE).any():
            total = total + functional.cross_entropy(part, classes[:, number], ignore_index=IGNORE)
    asked = maps[:, 0] != IGNORE
    hit = maps[:, 0][asked].float()
    objectness = functional.binary_cross_entropy_with_logits(local[:, 0][asked], hit, weight=1 + 29 * hit, reduction="sum") / hit.sum() / 10
    total = total + objectness
    for number, part in enumerate(torch.split(local[:, 1:], [len(names) for names in LOCAL.values()], 1), 1):
        total = total + functional.cross_entropy(part, maps[:, number], ignore_index=IGNORE)
    return total


def update(network: Network, optimiser: torch.optim.Optimizer, data: tuple[Tensor, Tensor, Tensor]) -> float:
    """One step on one batch; its loss."""
    pictures, classes, maps = data
    with torch.autocast("cpu", torch.bfloat16):
        scores, local = network(pictures.to(memory_format=torch.channels_last))
    value = loss(scores.float(), local.float(), classes, maps)
    optimiser.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()
    return value.item()


def train(minutes: float, out: Path, *, steps: int = 10**9, workers: int = 1, log: Any = sys.stderr) -> float:
    """Train for `minutes` or `steps`, write the weights; the last mean loss. One cosine from warm-up to zero."""
    torch.manual_seed(SEED)
    network = Network()
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    feed = iter(DataLoader(Batches(), batch_size=None, num_workers=workers))
    began, mean, step = time.monotonic(), 0.0, 0
    while (progress := max((time.monotonic() - began) / 60 / minutes, step / steps)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * progress))
        value = update(network, optimiser, next(feed))
        mean = value if step == 0 else 0.95 * mean + 0.05 * value
        step += 1
        if step % 50 == 0:
            print(json.dumps({"step": step, "progress": round(progress, 3), "loss": round(mean, 4)}), file=log, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    export.write_tensors(folded(network), out / "judge.safetensors", plain=False)
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--threads", type=int, default=1, help="of the learning process")
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps({"loss": train(options.minutes, options.out, workers=options.workers)}))


if __name__ == "__main__":
    main()
