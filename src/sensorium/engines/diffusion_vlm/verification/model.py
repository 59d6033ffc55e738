"""Checks of a loaded checkpoint against itself: cached and uncached forwards, the ways of decoding, numbers that stay numbers.

Two computations of the same thing may differ by what rounding does in the subject's number format, `ROUNDING`. Where that can turn a
best token into another one, tokens may differ at a place where the two are as close. It does not know golden dumps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from sensorium.engines.diffusion_vlm.decode import Decoding, Request, autoregress, diffuse, speculate, stream
from sensorium.engines.diffusion_vlm.numpy_layers import Floats
from sensorium.engines.diffusion_vlm.rows import Features, Row
from sensorium.engines.diffusion_vlm.schedule import Schedule
from sensorium.engines.diffusion_vlm.verification.checks import Report, hold
from sensorium.engines.diffusion_vlm.verification.subjects import Subject, as_floats

# Number format -> (root mean square of the difference, largest difference), each as a share of the same figure of the wanted values.
ROUNDING = {"float32": (3e-4, 1e-3), "float16": (1e-2, 2e-2), "bfloat16": (5e-2, 8e-2)}
ANSWER = 24
BLOCK = 8
NAMES = ("cached forward", "block of one", "self-speculation", "mask never said", "pictures", "plausibility")


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt without a picture, and two pictures [3, height, width] that differ."""

    prompt: Sequence[int]
    pictures: tuple[Floats, Floats]


def examine(report: Report, subject: Subject, question: Question) -> None:
    """Run all checks of this module, in the order of NAMES."""
    wanted = cache(lambda: uncached(subject, question.prompt, ANSWER))
    checks: tuple[Callable[[], str], ...] = (
        partial(cached_forward, subject, question.prompt),
        lambda: block_of_one(subject, question.prompt, wanted()),
        lambda: self_speculation(subject, question.prompt, wanted()),
        partial(mask_never_said, subject, question.prompt),
        partial(pictures, subject, question),
    )
    for name, check in zip(NAMES, checks, strict=False):
        report.run(name, check)
    report.run(NAMES[-1], partial(plausibility, subject, question.prompt), judged=False)


def cached_forward(subject: Subject, prompt: Sequence[int]) -> str:
    """The prompt in one row, and in rows of 1, 2, 3, ... tokens over what a denoising pass has left in the slot."""
    whole = subject.logits(Row(0, 0, prompt, True)).copy()
    subject.forward([Row(0, 1, [subject.config.mask] * len(prompt), False)])
    parts, at, width = [], 0, 1
    while at < len(prompt):
        parts.append(subject.logits(Row(0, at, prompt[at : at + width], True)).copy())
        at, width = at + width, width + 1
    return "as a whole and in parts " + alike(np.concatenate(parts), whole, subject.dtype)


def block_of_one(subject: Subject, prompt: Sequence[int], wanted: Sequence[int]) -> str:
    """A row of one token sees the same in both ways of looking; and block diffusion with blocks of one is autoregression."""
    start = len(prompt) - 1
    subject.forward([Row(0, 0, prompt, True, last=True)])
    causal, both = (subject.logits(Row(0, start, prompt[start:], flag)).copy() for flag in (True, False))
    figure = "one token in both ways of looking " + alike(both, causal, subject.dtype)
    return f"{figure}; {same(subject, prompt, decoded(subject, prompt, autoregress), wanted)}"


def self_speculation(subject: Subject, prompt: Sequence[int], wanted: Sequence[int]) -> str:
    """Drafts change nothing but the number of forwards."""
    tokens = decoded(subject, prompt, partial(speculate, length=BLOCK))
    return same(subject, prompt, tokens, wanted)


def mask_never_said(subject: Subject, prompt: Sequence[int]) -> str:
    """Two blocks of diffusion with a budget that forces open masks to be resolved."""
    length = min(subject.config.block_size, 32)
    schedule = Schedule(2, length, 2)
    tokens = decoded(subject, prompt, partial(diffuse, schedule=schedule, threshold=0.9), schedule.length)
    hold(subject.config.mask not in tokens, f"the mask {subject.config.mask} is among the {len(tokens)} tokens of an answer")
    hold(all(0 <= token < subject.config.vocab for token in tokens), "an answer holds ids beyond the vocabulary")
    return f"{len(tokens)} tokens, {len(set(tokens))} different ones, none is the mask"


def pictures(subject: Subject, question: Question) -> str:
    """Projector rows are numbers, as many as cells, and depend on the picture; so does what follows a prompt that holds them."""
    first, second = (as_floats(subject.features(pixels)) for pixels in question.pictures)
    cell, hidden = subject.config.cell, subject.config.hidden
    height, width = question.pictures[0].shape[1:]
    wanted = (height // cell * (width // cell), hidden)
    hold(first.shape == wanted, f"a picture gives {list(first.shape)}, expected {list(wanted)}")
    hold(bool(np.isfinite(first).all() and np.isfinite(second).all()), "the rows of a picture hold NaN or infinite values")
    hold(not np.array_equal(first, second), "two different pictures look the same")
    count = min(4, len(first))
    tokens = [*question.prompt[:1], *[question.prompt[-1]] * count, *question.prompt[1:]]
    row = Row(0, 0, tokens, True, True, features=Features(range(1, 1 + count), subject.features(question.pictures[0])[:count]))
    logits = subject.logits(row)
    hold(bool(np.isfinite(logits).all()), "the logits after a picture hold NaN or infinite values")
    return f"{wanted[0]} rows of {hidden}, values up to {np.abs(first).max():.3g}, {subject.place} in {subject.dtype}"


def plausibility(subject: Subject, prompt: Sequence[int]) -> str:
    """How sure the model is of the next token of a text. Random weights are hardly surer than one in the vocabulary."""
    logits = subject.logits(Row(0, 0, prompt, True)).astype(np.float64)
    hold(bool(np.isfinite(logits).all()), "the logits hold NaN or infinite values")
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    right = float(np.mean([shares[place, token] for place, token in enumerate(prompt[1:])]))
    best, chance = float(shares.max(1).mean()), 1 / subject.config.vocab
    return f"mean probability of the best token {best:.3g}, of the prompt's own {right:.3g}; chance {chance:.2g}"


def uncached(subject: Subject, prompt: Sequence[int], count: int) -> list[int]:
    """Autoregression with the whole sequence computed anew for each token."""
    tokens: list[int] = []
    for _ in range(count):
        best, _ = subject.forward([Row(0, 0, [*prompt, *tokens], True, last=True)])[0]
        tokens.append(int(best[-1]))
    return tokens


def decoded(subject: Subject, prompt: Sequence[int], program: Callable[[Decoding], Any], count: int = ANSWER) -> list[int]:
    """An answer of `count` tokens, which no end token ends."""
    decoding = Decoding(Request(prompt, count, subject.config.mask, frozenset()), program)
    return [token for fresh in stream(decoding, subject.forward, lambda: False) for token in fresh]


def same(subject: Subject, prompt: Sequence[int], tokens: Sequence[int], wanted: Sequence[int]) -> str:
    """Equal tokens, or equal ones up to a place where rounding may decide between the two."""
    place = next((place for place, (one, other) in enumerate(zip(tokens, wanted, strict=True)) if one != other), None)
    if place is None:
        return f"{len(wanted)} tokens as computed without a cache"
    logits = subject.logits(Row(0, 0, [*prompt, *wanted[:place]], True, last=True))[-1]
    apart, scale = float(abs(logits[tokens[place]] - logits[wanted[place]])), float(np.abs(logits).max())
    close = 2 * ROUNDING[subject.dtype][1] * scale
    sentence = f"token {place} is {tokens[place]} instead of {wanted[place]}, whose logits are {apart:.3g} apart"
    hold(apart <= close, f"{sentence}; rounding explains up to {close:.3g}")
    return f"{sentence}, which rounding explains (up to {close:.3g})"


def alike(got: Floats, wanted: Floats, dtype: str) -> str:
    """The distance of two arrays as a figure. Raises Failed when it is more than rounding, or when the shapes differ."""
    hold(got.shape == wanted.shape, f"shape {list(got.shape)}, expected {list(wanted.shape)}")
    hold(bool(np.isfinite(got).all()), "NaN or infinite values")
    difference = got.astype(np.float64) - wanted
    spread = float(np.sqrt(np.mean(difference**2)) / max(float(np.sqrt(np.mean(wanted.astype(np.float64) ** 2))), 1e-30))
    worst = float(np.abs(difference).max() / max(float(np.abs(wanted).max()), 1e-30))
    limits = ROUNDING[dtype]
    figure = f"differ by {spread:.1e} (rms) and {worst:.1e} (largest)"
    limit = f"{dtype} allows {limits[0]:.0e} and {limits[1]:.0e}"
    hold(spread <= limits[0] and worst <= limits[1], f"{figure}; {limit}")
    return f"{figure}; {limit}"
