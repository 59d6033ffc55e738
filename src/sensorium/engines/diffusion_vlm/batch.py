"""Answers in the making side by side on one backend. A tick is one forward for all of them, whatever their phase: admit, choose, run, take.

One thread at a time. It does not know text beyond handing pieces on, nor callers, queues or time.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sensorium.engines.diffusion_vlm.answering import Answering, Clock, Event, Finished, Job
from sensorium.engines.diffusion_vlm.ask import LARGEST_SEED, Picture, chosen, program
from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.engines.diffusion_vlm.decode import Counts, Decoding, Request
from sensorium.engines.diffusion_vlm.rows import Answer, Backend, Ids, Row
from sensorium.engines.diffusion_vlm.seen import CELLS, Seen
from sensorium.engines.diffusion_vlm.slots import Copy, Slots
from sensorium.errors import DeviceLost, SensoriumError, UpstreamFailed

log = logging.getLogger("sensorium.engine")


@dataclass(frozen=True, slots=True)
class Step:
    """What one tick gave one answer: its events, or the error that ended it."""

    answering: Answering
    events: Sequence[Event] = ()
    error: SensoriumError | None = None


@dataclass(slots=True)
class Figures:
    """What a model has done since it was loaded: answers and tokens, forwards by purpose, ticks and the rows in them."""

    answers: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    tokens: int = 0
    prefill: int = 0
    denoise: int = 0
    write: int = 0
    draft: int = 0
    verify: int = 0
    drafted_tokens: int = 0
    failed: int = 0
    ticks: int = 0
    rows: int = 0
    active: int = 0
    slots: int = 0
    length: int = 0


class Batch:
    """The answers of one model. `reuse` lets a prompt take over what an earlier one with the same beginning has computed; projector rows
    of about `cells` cells are kept, those used last. `clock` counts seconds."""

    def __init__(
        self, backend: Backend, config: VLMConfig, *, reuse: bool = True, cells: int = CELLS, clock: Clock = time.perf_counter
    ) -> None:
        self.backend, self.config = backend, config
        self._clock = clock
        self.active: list[Answering] = []
        self.figures = Figures(slots=backend.slots, length=backend.length)
        self._slots = Slots(backend.slots, reuse=reuse)
        self._seen = Seen(lambda picture: backend.features(picture.pixels), cells)

    @property
    def room(self) -> int:
        """How many more answers may be admitted."""
        return self._slots.free

    def admit(self, job: Job, waiting: int = 0) -> Answering:
        """Give an answer its slot and begin it; `waiting` others wait. Raises what looking at its pictures raises, slot untaken."""
        begun, moved = self._clock(), self.backend.transfer_s
        self.backend.reserve(len(job.prompt.ids) + job.room)
        place = self._slots.take(job.identity)
        try:
            self._copy(place.copies)
            request = self._request(job, place.reused)
            mode = chosen(job.ask, len(self.active) + 1 + waiting)
            decoding = Decoding(request, program(job.ask, job.schedule, mode, job.grammar))
            answering = Answering(job, decoding, place.slot, mode, self._clock, begun, self.backend.transfer_s - moved)
        except BaseException:
            self._slots.forget(place.slot)
            self._slots.release(place.slot)
            raise
        self.active.append(answering)
        self.figures.active = len(self.active)
        return answering

    def drop(self, answering: Answering) -> None:
        """Take an answer out, finished or not: its slot is free. Dropping twice is harmless."""
        if answering not in self.active:
            return
        self.active.remove(answering)
        self._slots.release(answering.slot)
        self._count(answering)

    def tick(self) -> list[Step]:
        """One forward for all that can go on. What finishes or fails by it has been dropped when this returns. Raises DeviceLost."""
        unmoved = self._settle()
        going = self._choose()
        rows = [replace(row, slot=one.slot) for one in going if (row := one.row) is not None]
        self.figures.ticks += 1
        self.figures.rows += len(rows)
        outcomes = self._run(rows) if rows else ()
        return unmoved + [self._taken(one, row, outcome) for one, row, outcome in zip(going, rows, outcomes, strict=True)]

    def _choose(self) -> list[Answering]:
        """Every answer that is past its prompt, and the next piece of the oldest prompt whose pictures have been looked at."""
        going = [one for one in self.active if not one.prefilling]
        reading = [one for one in self.active if one.prefilling]
        ready = [one for one in reading if self.backend.ready(_features(one.row))]
        return going + (ready or ([] if going else reading))[:1]

    def _run(self, rows: Sequence[Row]) -> Sequence[Answer | SensoriumError]:
        """Answer all rows, or, when that fails, each on its own, so that one bad row ends only its own answer. Raises DeviceLost."""
        try:
            return [_sound(answer) for answer in self.backend.forward(rows)]
        except DeviceLost:
            raise
        except Exception as error:  # outermost: whatever a row does to the device, the other answers go on
            if len(rows) == 1:
                return [_told(error)]
            log.warning("a forward of %d rows failed (%s); each is tried on its own", len(rows), type(error).__name__)
        # Only here: an error keeps alive what its frames held on the device.
        return [outcome for row in rows for outcome in self._run([row])]

    def _taken(self, one: Answering, row: Row, outcome: Answer | SensoriumError) -> Step:
        if isinstance(outcome, SensoriumError):
            return self._failed(one, outcome)
        prompt = len(one.job.prompt.ids)
        if row.start < prompt:
            self._slots.hold(one.slot, one.job.identity[: min(prompt, row.start + len(row.tokens))])
        try:
            events = one.take(outcome)
        except Exception as error:  # outermost: the other answers of the tick go on
            return self._failed(one, _told(error))
        if events and isinstance(events[-1], Finished):
            self.drop(one)
        return Step(one, events)

    def _failed(self, one: Answering, error: SensoriumError) -> Step:
        self.figures.failed += 1
        self._slots.forget(one.slot)
        self.drop(one)
        return Step(one, error=error)

    def _settle(self) -> list[Step]:
        """Move the answer in the highest slot down when forwards then span fewer slots; how it ended if that failed. Raises DeviceLost."""
        highest = self._slots.highest
        mover = next((one for one in self.active if one.slot == highest), None)
        moved = self._slots.denser(mover.row.start) if mover is not None and mover.row is not None else None
        if mover is None or moved is None:
            return []
        mover.slot, copies = moved
        try:
            self._copy(copies)
        except DeviceLost:
            raise
        except Exception as error:  # outermost: the other answers stay where they are and go on
            return [self._failed(mover, _told(error))]
        return []

    def _copy(self, copies: Sequence[Copy]) -> None:
        try:
            for copy in copies:
                self.backend.copy(copy.source, copy.target, copy.length)
        except BaseException:
            for copy in copies:
                self._slots.forget(copy.target)
            raise

    def _request(self, job: Job, reused: int) -> Request:
        """What decoding starts from. Pictures that lie in the reused beginning are not looked at."""
        ask, config = job.ask, self.config
        pads = job.prompt.pads
        parts, begin = [], len(pads)
        for picture in reversed(job.pictures):
            begin -= picture.cells
            if pads[begin + picture.cells - 1] < reused:
                begin += picture.cells
                break
            parts.append(self._seen.rows(picture))
        return Request(
            prompt=job.prompt.ids,
            max_tokens=ask.max_tokens,
            mask=config.mask,
            ends=config.ends,
            temperature=float(ask.temperature),
            seed=secrets.randbelow(LARGEST_SEED) if ask.seed is None else ask.seed,
            pads=pads[begin:],
            features=self.backend.join(parts[::-1]) if parts else None,
            reused=reused,
        )

    def _count(self, answering: Answering) -> None:
        """Add what an answer has done to the figures."""
        figures, decoding = self.figures, answering.decoding
        counts: Counts = decoding.counts
        figures.active = len(self.active)
        figures.answers += 1
        figures.prompt_tokens += len(decoding.request.prompt)
        figures.reused_tokens += decoding.request.reused
        figures.tokens += len(decoding.tokens)
        for name in ("prefill", "denoise", "write", "draft", "verify"):
            setattr(figures, name, getattr(figures, name) + getattr(counts, name))
        figures.drafted_tokens += len(decoding.tokens) if counts.draft else 0


def _features(row: Row | None) -> Any:
    return row.features.rows if row is not None and row.features is not None else None


def _sound(answer: Answer) -> Answer | SensoriumError:
    """An answer of numbers, or the error that says that they are none."""
    if np.isnan(answer[1]).any():
        return UpstreamFailed("the model computed something that is no number for this prompt", hint="another data type may hold it")
    return answer


def _told(error: Exception) -> SensoriumError:
    """An error that the caller may read; the inside of others is for the log."""
    if isinstance(error, SensoriumError):
        return error
    log.error("a forward failed", exc_info=error)
    return UpstreamFailed("the engine failed on this call; its log has the details")


def identity(ids: Sequence[int], pads: list[int], pictures: Sequence[Picture]) -> Ids:
    """What stands at each position: token ids, and below zero, at the cells of pictures, numbers out of their digests."""
    names = np.array(ids, np.int64)
    at = 0
    for picture in pictures:
        names[pads[at : at + picture.cells]] = -1 - int.from_bytes(picture.digest[:7], "big") - np.arange(picture.cells)
        at += picture.cells
    return names
