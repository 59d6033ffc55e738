"""Packed training sequences: one picture, several questions, every answer once clean (causal) and once noisy (block diffusion).

Layout of a sequence: [shared start with the image | Q1 A1 | noisy blocks of A1 | Q2 A2 | ...]. A question sees the shared start and itself
only, and its positions go on where the shared start ends. It knows no model; masks and targets come out as arrays.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from sensorium.engines.flow_image.world import KINDS, Scene
from training import questions, scenes
from training.augment import augment
from training.dense import IGNORE, patch_labels
from training.tokenizer import SPECIAL
from training.vlm_model import PIXEL_MEAN, PIXEL_STD

END: Final = SPECIAL["<|im_end|>"]
MASK: Final = SPECIAL["<|mask|>"]
PAD: Final = SPECIAL["<|image_pad|>"]
UNK: Final = SPECIAL["<unk>"]
BLOCKS: Final = (4, 8, 16, 32, 64)
BLOCK_WEIGHTS: Final = (0.08, 0.12, 0.15, 0.6, 0.05)
NO_TARGET: Final = -100
FIRST_PROBE: Final = 1000  # probes are groups of their own, beyond every question's
PROBE_WEIGHT: Final = 0.3


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything one step needs. Shapes: pixels [B, 3, S, S]; labels [B, 5, P]; the rest [B, T], `visible` [B, T, T]."""

    pixels: Tensor
    labels: Tensor
    ids: Tensor
    positions: Tensor
    visible: Tensor
    pads: Tensor
    targets: Tensor
    weights: Tensor
    noisy: Tensor
    question: Tensor
    group: Tensor
    asked: list[list[questions.Asked]]


@dataclass(slots=True)
class _Sequence:
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    block: list[int] = field(default_factory=list)
    limit: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    question: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(
        self, token: int, position: int, group: int, *, block: int = 0, limit: int = -1, target: int = NO_TARGET, weight: float = 0.0,
        question: bool = False,
    ) -> None:  # fmt: skip
        self.ids.append(token)
        self.positions.append(position)
        self.group.append(group)
        self.block.append(block)
        self.limit.append(limit if limit >= 0 else position + 1)
        self.targets.append(target)
        self.weights.append(weight)
        self.question.append(question)


class Packer:
    """Builds batches from one random source.

    `noise`: share of questions that also get noisy blocks; `signs`, `pairs`: shares of pictures that are such, beyond the
    sampler's own; `twins`: share of pictures that are pairs of one shape, whose places only their colours tell; `descriptions`: share of
    questions that ask for one, beyond their own weight; `probes`: at most so many probes to a sequence.
    """

    def __init__(
        self, tokenizer: Tokenizer, rng: random.Random, length: int, grid: int, merge: int, noise: float = 0.5, signs: float = 0.0,
        probes: int = 0, pairs: float = 0.0, descriptions: float = 0.0, twins: float = 0.0,
    ) -> None:  # fmt: skip
        self.tokenizer, self.rng, self.length, self.grid = tokenizer, rng, length, grid
        self.noise, self.signs, self.pairs, self.probes, self.descriptions = noise, signs, pairs, probes, descriptions
        self.twins = twins
        tokens = grid // merge
        row = [PAD] * tokens + [SPECIAL["<|image_break|>"]]
        self.image = [SPECIAL["<|image_start|>"], *(row * tokens)[:-1], SPECIAL["<|image_end|>"]]
        self.cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; short texts are remembered."""
        found = self.cache.get(text)
        if found is None:
            found = self.tokenizer.encode(text).ids
            if len(self.cache) < 50_000:
                self.cache[text] = found
        return found

    def picture(self, held: bool | None, share: float) -> tuple[scenes.Layout, NDArray[np.uint8], NDArray[np.int64]]:
        """A layout, its picture (augmented with probability `share`), its patch labels."""
        chance = self.rng.random()
        kinds = ("sign",) if chance < self.signs else ("pair",) if chance < self.signs + self.pairs else KINDS
        layout = scenes.sample(self.rng, held, kinds)
        if self.rng.random() < self.twins:
            while len({thing.shape for thing in layout.scene.things}) != 1 or layout.scene.kind != "pair":
                layout = scenes.sample(self.rng, held, ("pair",))
        image = scenes.render(layout, self.rng)
        labels = patch_labels(layout, self.grid)
        if self.rng.random() < share:
            image, kept = augment(image, self.rng)
            if not kept:
                labels[:] = IGNORE
        return layout, image, labels

    def looks(self, size: int, held: bool | None = False, share: float = 0.3) -> tuple[Tensor, Tensor, list[scenes.Layout]]:
        """(pixels [B, 3, S, S], labels [B, 5, P], layouts)."""
        drawn = [self.picture(held, share) for _ in range(size)]
        pixels = normalise(np.stack([image for _, image, _ in drawn]))
        return pixels, torch.from_numpy(np.stack([labels for _, _, labels in drawn])), [layout for layout, _, _ in drawn]

    def batch(self, size: int, held: bool | None = False, boost: float = 1.0, share: float = 0.3) -> Batch:
        """A random batch; `boost` as in questions.ask."""
        pixels, labels, layouts = self.looks(size, held, share)
        length = self.rng.choices(BLOCKS, BLOCK_WEIGHTS)[0]
        built = [self._pack(layout.scene, length, boost) for layout in layouts]
        arrays = [_padded([getattr(sequence, name) for sequence, _ in built], self.length, fill) for name, fill in _FIELDS]
        ids, positions, group, block, limit, targets, question = (torch.from_numpy(array) for array in arrays)
        weights = torch.tensor([sequence.weights + [0.0] * (self.length - len(sequence.weights)) for sequence, _ in built])
        same = group[:, None, :] == group[:, :, None]
        clean = (block[:, None, :] == 0) & (positions[:, None, :] < limit[:, :, None]) & (same | (group[:, None, :] == 0))
        visible = clean | ((block[:, None, :] == block[:, :, None]) & (block[:, None, :] > 0))
        asked = [one for _, one in built]
        return Batch(pixels, labels, ids, positions, visible, ids == PAD, targets, weights, block > 0, question > 0, group, asked)

    def _pack(self, scene: Scene, length: int, boost: float) -> tuple[_Sequence, list[questions.Asked]]:
        rng, sequence = self.rng, _Sequence()
        asked: list[questions.Asked] = []
        head, first = self._start(scene, boost)
        for position, token in enumerate(head):
            sequence.add(token, position, 0)
        for number in range(rng.randint(0, self.probes)):
            self._probe(sequence, scene, len(head), FIRST_PROBE + number)
        for tries in range(12):
            kind = "describe" if rng.random() < self.descriptions else None
            one = first if tries == 0 and first is not None else questions.ask(rng, scene, boost, kind)
            prompt = self._prompt(scene, first, one, tries == 0, boost)
            answer = [*self.encode(one.answer), END]
            noisy = rng.random() < self.noise
            blocks = -(-len(answer) // length) * length if noisy else 0
            if len(sequence.ids) + len(prompt) + len(answer) + blocks > self.length:
                if tries > 3 or not asked:
                    break
                continue
            asked.append(one)
            self._clean(sequence, len(head), prompt, answer, len(asked), learn_question=one.kind != "describe")
            if noisy:
                self._noisy(sequence, len(head) + len(prompt), answer, length, len(asked))
        return sequence, asked

    def _probe(self, sequence: _Sequence, scene: Scene, start: int, group: int) -> None:
        """A few words right after the image, and Yes or No as what comes next."""
        text, true = questions.probe(self.rng, scene)
        ids = self.encode(text)
        for i, token in enumerate(ids[:-1]):
            sequence.add(token, start + i, group)
        verdict = self.encode("Yes" if true else "No")[0]
        sequence.add(ids[-1], start + len(ids) - 1, group, target=verdict, weight=PROBE_WEIGHT)

    def _start(self, scene: Scene, boost: float) -> tuple[list[int], questions.Asked | None]:
        """The shared start, and the question it already holds when the text comes before the image."""
        rng, text, first = self.rng, "", None
        if rng.random() < 0.05:
            text = f"<|im_start|>system\n{questions.nonsense(rng) if rng.random() < 0.7 else 'You are a helpful assistant.'}<|im_end|>\n"
        text += "<|im_start|>user\n"
        if rng.random() < 0.06:
            first = questions.ask(rng, scene, boost)
            text += first.question
        return [*self.tokenizer.encode(text).ids, *self.image], first

    def _prompt(self, scene: Scene, first: questions.Asked | None, one: questions.Asked, opening: bool, boost: float) -> list[int]:
        """What follows the shared start, up to where the answer begins."""
        turn, earlier = "<|im_end|>\n<|im_start|>assistant\n", ""
        if first is not None:
            if opening:
                return self.encode(turn)
            earlier = f"{turn}{first.answer}<|im_end|>\n<|im_start|>user\n"
        elif self.rng.random() < 0.08:
            before = questions.ask(self.rng, scene, boost)
            earlier = f"{before.question}{turn}{before.answer}<|im_end|>\n<|im_start|>user\n"
        ids = self.tokenizer.encode(earlier + one.question + turn).ids if earlier else self.encode(one.question) + self.encode(turn)
        if self.rng.random() < 0.04 and len(ids) > 12:
            spot = self.rng.randrange(len(ids) - 8)
            ids = [*ids[:spot], UNK, *ids[spot:]]
        return ids

    def _clean(
        self, sequence: _Sequence, start: int, prompt: list[int], answer: list[int], group: int, *, learn_question: bool
    ) -> None:  # fmt: skip
        text = [*prompt, *answer]
        weight = len(answer) ** -0.5
        for i, token in enumerate(text[:-1]):
            if i >= len(prompt) - 1:
                sequence.add(token, start + i, group, target=text[i + 1], weight=weight)
            elif learn_question and text[i + 1] != UNK:
                sequence.add(token, start + i, group, target=text[i + 1], weight=1.0, question=True)
            else:
                sequence.add(token, start + i, group)

    def _noisy(self, sequence: _Sequence, start: int, answer: list[int], length: int, group: int) -> None:
        rng = self.rng
        weight = len(answer) ** -0.5
        for offset in range(0, len(answer), length):
            ratio = 1.0 if rng.random() < 0.5 else rng.uniform(0.05, 1.0)
            keep = rng.random() < 0.85  # in decoding the causal head writes it first
            number = group * 100 + offset // length + 1
            for i in range(offset, offset + length):
                token = answer[i] if i < len(answer) else END
                masked = not (keep and i == offset) and rng.random() < ratio
                value = weight if i < len(answer) else 0.08 * weight
                target, share = (token, value) if masked else (NO_TARGET, 0.0)
                shown = MASK if masked else token
                sequence.add(shown, start + i, group, block=number, limit=start + offset, target=target, weight=share)


_FIELDS: Final = (("ids", END), ("positions", 0), ("group", -1), ("block", 0), ("limit", 0), ("targets", NO_TARGET), ("question", 0))


def _padded(rows: list[list[int]], length: int, fill: int) -> NDArray[np.int64]:
    out = np.full((len(rows), length), fill, np.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


def normalise(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 [B, S, S, 3] -> float [B, 3, S, S] with the checkpoint's mean and deviation."""
    mean, deviation = np.asarray(PIXEL_MEAN, np.float32), np.asarray(PIXEL_STD, np.float32)
    return torch.from_numpy((pictures.astype(np.float32) / 255 - mean) / deviation).permute(0, 3, 1, 2).contiguous()
