"""The diffusion VLM as a whole: a question with pictures in, text pieces and a record of the work out.

It does not know HTTP, files of pictures or queues. `prepare` turns a question into a job; `work` is what a lane runs: one answer at a time,
or, where the backend computes many side by side, the job itself for a shared lane.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sensorium.engines.diffusion_vlm import image
from sensorium.engines.diffusion_vlm.answering import Event, Job
from sensorium.engines.diffusion_vlm.ask import Ask, Picture, check, positions_needed
from sensorium.engines.diffusion_vlm.batch import Batch, Figures, identity
from sensorium.engines.diffusion_vlm.config import SideConfig, VLMConfig, read_config, read_side_config
from sensorium.engines.diffusion_vlm.grammar import Grammars
from sensorium.engines.diffusion_vlm.numpy_backend import NumpyBackend
from sensorium.engines.diffusion_vlm.prompt import PromptBuilder, check_length
from sensorium.engines.diffusion_vlm.rows import Backend
from sensorium.engines.diffusion_vlm.seen import CELLS
from sensorium.engines.diffusion_vlm.text import StopStrings, TextStream
from sensorium.errors import Cancelled

FEW_CELLS = 512  # kept by a model that serves one caller after the other


def never() -> bool:
    """The answer of a caller who stays."""
    return False


class DiffusionVLM:
    """A loaded checkpoint. `name` is its folder's name, `scope` the world it knows (None: no limit stated).

    `shared` says that its answers are made side by side: its lane is a SharedLane over `batch`.
    """

    def __init__(
        self, name: str, config: VLMConfig, side: SideConfig, prompts: PromptBuilder, backend: Backend, *, shared: bool = False
    ) -> None:
        self.name = name
        self.config = config
        self.scope = side.scope
        self.shared = shared
        # One answer at a time comes out the same to the last bit however often it is asked for, which reuse would spoil.
        self.batch = Batch(backend, config, reuse=shared, cells=CELLS if shared else FEW_CELLS)
        self._side = side
        self._secret = secrets.token_bytes(16)
        self._prompts = prompts
        self._grammars = Grammars(prompts.tokenizer, config, prompts.special)

    @classmethod
    def load(cls, folder: Path) -> DiffusionVLM:
        """Load a checkpoint folder in the official layout, for numpy. Raises SettingsError that lists what is wrong with it."""
        config = read_config(folder)
        return cls.over(folder, config, NumpyBackend.load(folder, config))

    @classmethod
    def over(cls, folder: Path, config: VLMConfig, backend: Backend, *, shared: bool = False) -> DiffusionVLM:
        """The checkpoint of a folder whose weights a backend has already. Raises SettingsError."""
        return cls(folder.name, config, read_side_config(folder), PromptBuilder(folder, config), backend, shared=shared)

    @property
    def enough(self) -> int | None:
        """The longest side of a picture, in pixels, that makes a difference; None where any may."""
        return image.enough(self._side)

    @property
    def figures(self) -> Figures:
        """What has been done since the model was loaded."""
        return self.batch.figures

    def see(self, picture: Image.Image) -> Picture:
        """A picture as the tower takes it, far smaller than a photograph. Any thread may call it. Raises InvalidImage."""
        rgb = np.ascontiguousarray(image.taken_in(picture, self._side))
        pixels = image.preprocess(rgb, self.config, self._side)
        # Of the bytes that all follows from, a quarter of what the pixels take; keyed, so that nobody can make two that are taken for one.
        digest = hashlib.blake2b(rgb.data, digest_size=16, key=self._secret, person=str(rgb.shape).encode()[:16]).digest()
        return Picture(pixels, digest, pixels.shape[1] * pixels.shape[2] // self.config.cell**2)

    def prepare(self, ask: Ask, cancelled: Callable[[], bool] = never) -> Job:
        """Check a question and make its prompt. One thread at a time.

        Raises Unprocessable for parameters outside their rules or a prompt that does not fit, BadRequest for a schema that cannot be kept,
        InvalidImage for unusable pictures, and Cancelled before each picture when `cancelled()` has become true.
        """
        begun = time.perf_counter()
        schedule = check(ask)
        grammar = None if ask.schema is None else self._grammars.compile(ask.schema)
        pictures = [self._picture(one, cancelled) for one in ask.images]
        cell = self.config.cell
        length = min(self.config.positions, self.batch.backend.length)
        grids = [(one.pixels.shape[1] // cell, one.pixels.shape[2] // cell) for one in pictures]
        prompt = self._prompts.build(ask.messages, grids, length)
        room = positions_needed(ask, schedule)
        check_length(len(prompt.ids), room, length)
        return Job(
            ask=ask,
            schedule=schedule,
            prompt=prompt,
            pictures=pictures,
            identity=identity(prompt.ids, prompt.pads, pictures),
            room=room,
            text=TextStream(self._prompts.tokenizer, self._prompts.special),
            stops=StopStrings(ask.stop),
            grammar=grammar,
            preparing_s=time.perf_counter() - begun,
        )

    def work(self, job: Job) -> Callable[[Callable[[], bool]], Any]:
        """What the model's lane runs for a job."""
        return (lambda cancelled: job) if self.shared else (lambda cancelled: self.answer(job, cancelled))

    def answer(self, job: Job, cancelled: Callable[[], bool] = never) -> Iterator[Event]:
        """Make one answer alone: Deltas as tokens are committed, then one Finished. Starting another one ends it.

        Raises Cancelled between two forwards when `cancelled()` has become true, and what a forward raises.
        """
        for earlier in [*self.batch.active]:
            self.batch.drop(earlier)
        answering = self.batch.admit(job)
        try:
            while answering.row is not None:
                if cancelled():
                    raise Cancelled("the caller went away while the answer was being generated")
                if answering not in self.batch.active:
                    raise RuntimeError("another answer was started on this model before this one ended")
                (step,) = self.batch.tick()
                if step.error is not None:
                    raise step.error
                yield from step.events
        finally:
            self.batch.drop(answering)

    def _picture(self, picture: Image.Image | Picture, cancelled: Callable[[], bool]) -> Picture:
        if cancelled():
            raise Cancelled("the caller went away")
        return self.see(picture) if isinstance(picture, Image.Image) else picture
