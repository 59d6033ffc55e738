"""Golden dumps made by the slow arithmetic of `plain` and a decoder of its own, which follows the reference where the engine deviates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from sensorium.engines.diffusion_vlm.config import VLMConfig, read_config
from sensorium.engines.weights import open_tensors
from tests.engines.diffusion_vlm import plain

Array = NDArray[np.floating]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE = 96  # of the shipped model's pictures, which are then not resized
TURN = "<|im_start|>user\n{}{}<|im_end|>\n<|im_start|>assistant\n"


@dataclass
class Reference:
    """Float64, the whole sequence anew for each pass; the mask may be said, and masks that are left open stay."""

    weights: Mapping[str, Array]
    config: VLMConfig

    def logits(self, tokens: list[int], pads: list[int], features: Array | None, clean: int) -> Array:
        """Of all positions; those from `clean` on see each other in both directions."""
        visible = np.tril(np.ones((len(tokens), len(tokens)), bool))
        visible[clean:, clean:] = True
        x = self.weights["encoder.embed_tokens.weight"][tokens].astype(np.float64)
        if features is not None:
            x[pads] = features
        return plain.decoder(self.weights, self.config, x, visible)

    def answer(self, prompt: list[int], pads: list[int], features: Array | None, case: dict[str, Any]) -> dict[str, Any]:
        """Tokens, forwards, and the first block with its logits."""
        mask, length = self.config.mask, case["block_length"]
        blocks = case["max_tokens"] // length
        steps = case["steps"] // blocks
        after = self.logits(prompt, pads, features, len(prompt))[-1]
        clean, seed, nfe, first = list(prompt), int(after.argmax()), 0, {}
        for _ in range(blocks):
            block = [seed] + [mask] * (length - 1)
            for step in range(steps):
                hidden = [place for place in range(length) if block[place] == mask]
                if not hidden:
                    break
                seen = self.logits(clean + block, pads, features, len(clean))[len(clean) :]
                first = first or {"block": list(block), "block_logits": seen}
                nfe += 1
                share = np.exp(seen - seen.max(1, keepdims=True))
                share /= share.sum(1, keepdims=True)
                sure = {place: np.float32(share[place].max()) for place in hidden}
                ranked = sorted(hidden, key=lambda place: (-sure[place], place))
                tau = case["threshold"]
                if tau is None:
                    quota = (length - 1) // steps + (step < (length - 1) % steps)
                    chosen = ranked[:quota]
                else:
                    chosen = [place for place in hidden if sure[place] >= np.float32(tau)] or ranked[:1]
                for place in chosen:
                    block[place] = int(seen[place].argmax())
                ends = [place for place in range(length) if block[place] in self.config.ends]
                if ends and mask not in block[: ends[0]]:
                    break
            clean += block
            nfe += 1
            seed = int(self.logits(clean, pads, features, len(clean))[-1].argmax())
            if self.config.ends & set(block):
                break
        return {"tokens": clean[len(prompt) :], "nfe": nfe, "prefill_logits": after, **first}


def write_dumps(checkpoint: Path, folder: Path) -> Path:
    """Dumps of three questions to the shipped model into `folder`: with a picture, without a threshold, and without a picture."""
    folder.mkdir(parents=True)
    config = read_config(checkpoint)
    reference = Reference(dict(open_tensors(checkpoint)), config)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    picture = _scene()
    Image.fromarray(picture).save(folder / "scene.png")
    pixels = (((picture / 255 - MEAN) / STD).transpose(2, 0, 1)).astype(np.float32)
    seen = plain.tower(reference.weights, config, pixels)
    rows = SIDE // config.vision.patch
    features = plain.projector(reference.weights, config, seen, rows, rows)
    settings: list[dict[str, Any]] = [
        {"name": "picture", "question": "What is in this picture?", "max_tokens": 32, "steps": 32, "block_length": 16, "threshold": 0.9},
        {"name": "few steps", "question": "How many cubes are there?", "max_tokens": 32, "steps": 6, "block_length": 16, "threshold": None},
        {"name": "text", "question": "What is red?", "max_tokens": 16, "steps": 4, "block_length": 8, "threshold": 0.5},
    ]
    cases = []
    for case in settings:
        shown = case["name"] != "text"
        prompt, pads = _prompt(tokenizer, case["question"], (rows // config.merge) if shown else 0)
        made = reference.answer(prompt, pads, features if shown else None, case)
        arrays = {kind: made.pop(kind) for kind in ("prefill_logits", "block_logits")}
        if shown:
            arrays |= {"pixels": pixels, "tower": seen, "features": features}
        files = {kind: f"{case['name'].replace(' ', '-')}.{kind}.npy" for kind in arrays}
        for kind, values in arrays.items():
            np.save(folder / files[kind], values.astype(np.float32))
        cases.append(case | made | {"prompt": prompt, "picture": "scene.png" if shown else "", "arrays": files})
    index = {"format": 1, "kind": "diffusion_vlm_golden", "dtype": "float32", "made_with": {"by": "the slow oracle"}, "cases": cases}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def _scene() -> NDArray[np.uint8]:
    """A red square and a blue disc on grey."""
    picture = np.full((SIDE, SIDE, 3), (200, 200, 205), np.uint8)
    picture[20:50, 10:40] = (210, 30, 30)
    down, across = np.mgrid[:SIDE, :SIDE]
    picture[(down - 65) ** 2 + (across - 68) ** 2 < 15**2] = (30, 60, 200)
    return picture


def _prompt(tokenizer: Tokenizer, question: str, cells: int) -> tuple[list[int], list[int]]:
    """Ids, with a square picture of so many cells a side before the question, and the places of its cells."""
    text = TURN.format("<|image_start|>" if cells else "", question)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if not cells:
        return ids, []
    start, pad, close, end = (tokenizer.token_to_id(f"<|image_{name}|>") for name in ("start", "pad", "break", "end"))
    place = ids.index(start)
    grid = [*([pad] * cells + [close]) * (cells - 1), *[pad] * cells, end]
    ids = [*ids[: place + 1], *grid, *ids[place + 1 :]]
    return ids, [place for place, id in enumerate(ids) if id == pad]
