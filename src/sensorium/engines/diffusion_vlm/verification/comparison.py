"""A loaded checkpoint against golden dumps of a reference, with every deviation from the reference switched off.

Each stage starts from the dump of the stage before it where that can be put in, so that a fault shows where it is. Numbers may differ by
the rounding of the coarser of the two number formats; pixels by 1e-4. In float32 on both sides tokens and forwards must be equal; else
the tokens of the first block must, and forwards may differ by a quarter, since a rounding may turn any decision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sensorium.engines.diffusion_vlm import image
from sensorium.engines.diffusion_vlm.config import SideConfig
from sensorium.engines.diffusion_vlm.decode import Decoding, Request, diffuse, stream
from sensorium.engines.diffusion_vlm.numpy_layers import Floats
from sensorium.engines.diffusion_vlm.prompt import IMAGE_PAD, PromptBuilder
from sensorium.engines.diffusion_vlm.rows import Row
from sensorium.engines.diffusion_vlm.schedule import Schedule
from sensorium.engines.diffusion_vlm.verification import golden
from sensorium.engines.diffusion_vlm.verification.checks import Report, hold
from sensorium.engines.diffusion_vlm.verification.golden import Case, Index
from sensorium.engines.diffusion_vlm.verification.model import ROUNDING, alike
from sensorium.engines.diffusion_vlm.verification.subjects import Rules, Subject

PIXELS = 1e-4
FORWARDS = 0.25
NAMES = ("prompt", "pixels", "tower", "projector", "prefill logits", "first-block logits", "tokens", "forwards")


def positions(index: Index) -> int:
    """How long a slot must be for all cases."""
    return max(len(case.prompt) + case.max_tokens for case in index.cases)


def compare(report: Report, subject: Subject, builder: PromptBuilder, side: SideConfig, folder: Path, index: Index) -> None:
    """Run the checks of every case, in the order of NAMES. The subject obeys the reference's rules from then on."""
    subject.obey(Rules(ban_mask=False, float32_confidence=index.dtype == "float32"))
    for case in index.cases:
        _compare(report, Comparison(subject, builder, side, folder, index, case))


def _compare(report: Report, this: Comparison) -> None:
    checks: tuple[tuple[str, Callable[[], str]], ...] = (("", this.prompt), ("pixels", this.pixels), ("tower", this.tower))
    checks += (("features", this.projector), ("prefill_logits", this.prefill_logits), ("block_logits", this.block_logits))
    for name, (kind, check) in zip(NAMES, checks, strict=False):
        title = f"{this.case.name}: {name}"
        if kind and kind not in this.case.arrays:
            report.skip((title,), "not among the dumps")
        else:
            report.run(title, check)
    for name, check in zip(NAMES[-2:], (this.tokens, this.forwards), strict=True):
        report.run(f"{this.case.name}: {name}", check)


class Comparison:
    """One case and the subject's side of it, computed when it is first asked for."""

    def __init__(self, subject: Subject, builder: PromptBuilder, side: SideConfig, folder: Path, index: Index, case: Case) -> None:
        self.subject, self.builder, self.side, self.folder, self.case = subject, builder, side, folder, case
        self.dtype = max(index.dtype, subject.dtype, key=lambda name: ROUNDING[name])
        self._seen: Floats | None = None
        self._decoded: Decoding | None = None

    def prompt(self) -> str:
        """Ids from the template, the tokenizer and the picture's size."""
        config, case = self.subject.config, self.case
        parts = [{"type": "image"}] * bool(case.picture) + [{"type": "text", "text": case.question}]
        grids = [(side.shape[1] // config.cell, side.shape[2] // config.cell) for side in ([self._own_pixels()] if case.picture else [])]
        ids = self.builder.build([{"role": "user", "content": parts}], grids).ids
        place = next((place for place, (one, other) in enumerate(zip(ids, case.prompt, strict=False)) if one != other), None)
        hold(place is None, f"id {place} is {ids[place or 0]}, the dump has {case.prompt[place or 0]}")
        hold(len(ids) == len(case.prompt), f"{len(ids)} ids, the dump has {len(case.prompt)}")
        return f"{len(ids)} ids are equal"

    def pixels(self) -> str:
        """Resizing and normalisation."""
        wanted, got = self._array("pixels"), self._own_pixels()
        hold(got.shape == wanted.shape, f"shape {list(got.shape)}, the dump has {list(wanted.shape)}")
        worst = float(np.abs(got - wanted).max())
        hold(worst <= PIXELS, f"differ by up to {worst:.1e}, more than {PIXELS:.0e}")
        return f"differ by up to {worst:.1e}; {PIXELS:.0e} is allowed"

    def tower(self) -> str:
        """The tower in float32 on the dumped pixels."""
        return alike(self.subject.exact_tower(self._pixels())[0], self._array("tower"), self.case.tower_dtype)

    def projector(self) -> str:
        """Tower and projector in float32 on the dumped pixels."""
        return alike(self.subject.exact_tower(self._pixels())[1], self._array("features"), self.case.tower_dtype)

    def prefill_logits(self) -> str:
        """After the dumped prompt and pixels."""
        rows = self._prefill()
        for row in rows[:-1]:
            self.subject.forward([row])
        return alike(self.subject.logits(rows[-1])[-1], self._array("prefill_logits"), self.dtype)

    def block_logits(self) -> str:
        """Of the dumped first block, after the dumped prompt."""
        for row in self._prefill():
            self.subject.forward([row])
        return alike(self.subject.logits(Row(0, len(self.case.prompt), self.case.block, False)), self._array("block_logits"), self.dtype)

    def tokens(self) -> str:
        """The answer, up to its end token."""
        got, wanted = self._cut(self._decoding().tokens), self._cut(self.case.tokens)
        place = next((place for place, (one, other) in enumerate(zip(got, wanted, strict=False)) if one != other), None)
        if place is None and len(got) != len(wanted):
            place = min(len(got), len(wanted))
        if place is None:
            return f"{len(wanted)} tokens are equal"
        figure = f"equal up to token {place} of {len(wanted)}"
        hold(self.dtype != "float32" and place >= min(self.case.block_length, len(wanted)), figure)
        return f"{figure}, which {self.dtype} allows beyond the first block"

    def forwards(self) -> str:
        """The number of function evaluations."""
        got, wanted = self._decoding().counts.evaluations, self.case.nfe
        allowed = 0 if self.dtype == "float32" else round(FORWARDS * wanted)
        hold(abs(got - wanted) <= allowed, f"{got}, the dump has {wanted}; {allowed} more or less are allowed")
        return f"{got}, the dump has {wanted}"

    def _array(self, kind: str) -> Floats:
        found = golden.array(self.folder, self.case, kind)
        assert found is not None, kind
        return found

    def _own_pixels(self) -> Floats:
        if self._seen is None:
            with Image.open(self.folder / self.case.picture) as picture:
                self._seen = image.see(picture, self.subject.config, self.side)
        return self._seen

    def _pixels(self) -> Floats:
        return self._array("pixels") if "pixels" in self.case.arrays else self._own_pixels()

    def _request(self) -> Request:
        case, config = self.case, self.subject.config
        pad = self.builder.tokenizer.token_to_id(IMAGE_PAD)
        pads = [place for place, id in enumerate(case.prompt) if id == pad] if case.picture else []
        features: Any = self.subject.features(self._pixels()) if case.picture else None
        seen = 0 if features is None else len(features)
        hold(seen == len(pads), f"{len(pads)} places in the prompt for {seen} rows of the picture")
        return Request(case.prompt, case.max_tokens, config.mask, config.ends, pads=pads, features=features)

    def _prefill(self) -> list[Row]:
        """The rows that write the prompt, as the engine cuts them."""
        rows: list[Row] = []
        decoding = Decoding(self._request(), self._program())
        while decoding.row is not None and decoding.row.start < len(self.case.prompt):
            rows.append(decoding.row)
            decoding.advance((np.zeros(1, np.int64), np.zeros(1, np.float32)))
        return rows

    def _decoding(self) -> Decoding:
        if self._decoded is None:
            decoding = Decoding(self._request(), self._program())
            for _ in stream(decoding, self.subject.forward, lambda: False):
                pass
            self._decoded = decoding
        return self._decoded

    def _program(self) -> Callable[[Decoding], Any]:
        case = self.case
        blocks = case.max_tokens // case.block_length
        schedule = Schedule(blocks, case.block_length, case.steps // blocks)
        return partial(diffuse, schedule=schedule, threshold=case.threshold, leave_masks=True)

    def _cut(self, tokens: Sequence[int]) -> list[int]:
        end = next((place for place, token in enumerate(tokens) if token in self.subject.config.ends), len(tokens))
        return list(tokens[: end + 1])
