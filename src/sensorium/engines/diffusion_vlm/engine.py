"""The diffusion VLM as a whole: a question with pictures in, text pieces and a record of the work out.

One answer at a time: the cache of keys and values is shared, so starting an answer ends the previous one. It does not know HTTP, files of
pictures or queues.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm import image
from sensorium.engines.diffusion_vlm.config import SideConfig, VLMConfig, read_config, read_side_config
from sensorium.engines.diffusion_vlm.decode import Decoding, Request, autoregress, diffuse, speculate, stream
from sensorium.engines.diffusion_vlm.numpy_layers import Floats
from sensorium.engines.diffusion_vlm.numpy_model import NumpyModel
from sensorium.engines.diffusion_vlm.numpy_vision import Tower
from sensorium.engines.diffusion_vlm.prompt import Prompt, PromptBuilder, check_length
from sensorium.engines.diffusion_vlm.schedule import BLOCK_LENGTH, MAX_TOKENS, STEPS, Schedule, make_schedule, number, whole_number
from sensorium.engines.diffusion_vlm.text import StopStrings, TextStream
from sensorium.engines.diffusion_vlm.weights import CONVERSIONS, plan
from sensorium.errors import Cancelled, Unprocessable

MODES = ("diffusion", "ar", "linear")
HOTTEST = 2.0
LARGEST_SEED = 2**63 - 1
KEPT_PICTURES = 8


@dataclass(frozen=True, slots=True)
class Ask:
    """One question.

    `messages` are mappings of role (system, user, assistant) and content, a list of {"type": "text", "text"} and {"type": "image"} parts;
    `images` are the pictures of those parts, in order, as they are or as `DiffusionVLM.see` returned them. `steps` is the budget over all
    blocks (None: 256, rounded up), `threshold` the confidence that commits a token (None: an even share of the masks per step); both act
    in diffusion mode only. `seed` matters at a temperature above 0, None draws one.
    """

    messages: Sequence[Mapping[str, Any]]
    images: Sequence[Image.Image | Floats] = ()
    max_tokens: int = 512
    steps: int | None = None
    block_length: int = 32
    threshold: float | None = 0.9
    mode: str = "diffusion"
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer's text; the pieces put together are the whole."""

    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and forwards. Pictures count in `prompt_tokens`, the end token in `completion_tokens`; the last five count by purpose."""

    prompt_tokens: int
    completion_tokens: int
    num_function_evals: int
    prefill: int
    denoise: int
    write: int
    draft: int
    verify: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds. Parts sum to at most the total. What happens to pictures before the question is asked is not in here."""

    total_time: float
    image_validation_time: float
    preprocessing_time: float
    gpu_transfer_time: float
    generation_time: float
    decode_time: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer: `reason` is "stop" (an end token or a stop string) or "length"."""

    reason: str
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Job:
    """A question that has been checked and turned into ids and pixels; `room` counts the positions its answer may touch."""

    ask: Ask
    schedule: Schedule
    prompt: Prompt
    pixels: list[Floats]
    room: int


class Stopwatch:
    """Sums up the seconds of named parts since its start."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] = self._parts.get(name, 0.0) + time.perf_counter() - begun

    def timings(self) -> Timings:
        seconds = self._parts.get
        return Timings(
            total_time=time.perf_counter() - self._begun,
            image_validation_time=0.0,
            preprocessing_time=seconds("preprocessing", 0.0),
            gpu_transfer_time=0.0,
            generation_time=seconds("generation", 0.0),
            decode_time=seconds("decode", 0.0),
        )


def never() -> bool:
    """The answer of a caller who stays."""
    return False


class DiffusionVLM:
    """A loaded checkpoint. `name` is its folder's name, `scope` the world it knows (None: no limit stated)."""

    def __init__(self, name: str, config: VLMConfig, side: SideConfig, prompts: PromptBuilder, model: NumpyModel, tower: Tower) -> None:
        self.name = name
        self.config = config
        self.scope = side.scope
        self._side = side
        self._prompts = prompts
        self._model = model
        self._tower = tower
        self._seen: OrderedDict[bytes, Floats] = OrderedDict()
        self._turn = 0

    @classmethod
    def load(cls, folder: Path) -> DiffusionVLM:
        """Load a checkpoint folder in the official layout. Raises SettingsError that lists what is wrong with it."""
        config, side = read_config(folder), read_side_config(folder)
        tensors = checkpoint.load(folder, plan(config), foreign=CONVERSIONS)
        return cls(folder.name, config, side, PromptBuilder(folder, config), NumpyModel(config, tensors), Tower(config, tensors))

    @property
    def enough(self) -> int | None:
        """The longest side of a picture, in pixels, that makes a difference; None where any may."""
        return image.enough(self._side)

    def see(self, picture: Image.Image) -> Floats:
        """A picture as the tower takes it, far smaller than a photograph. Any thread may call it. Raises InvalidImage."""
        return image.see(picture, self.config, self._side)

    def answer(self, ask: Ask, cancelled: Callable[[], bool] = never) -> Iterator[Delta | Finished]:
        """Check the question and build its prompt now; the iterator generates: Deltas as tokens are committed, then one Finished.

        Raises Unprocessable for parameters outside their rules and InvalidImage for unusable pictures, both at once; Cancelled before
        each picture, and from the iterator between two forwards, when `cancelled()` has become true.
        """
        watch = Stopwatch()
        schedule = check(ask)
        with watch.part("preprocessing"):
            pixels = [self._pixels(picture, cancelled) for picture in ask.images]
            cell = self.config.cell
            prompt = self._prompts.build(ask.messages, [(one.shape[1] // cell, one.shape[2] // cell) for one in pixels])
            room = positions_needed(ask, schedule)
            check_length(len(prompt.ids), room, self.config.positions)
        self._turn += 1
        return self._generate(Job(ask, schedule, prompt, pixels, room), cancelled, watch, self._turn)

    def _pixels(self, picture: Image.Image | Floats, cancelled: Callable[[], bool]) -> Floats:
        if cancelled():
            raise Cancelled("the caller went away")
        return self.see(picture) if isinstance(picture, Image.Image) else picture

    def _generate(self, job: Job, cancelled: Callable[[], bool], watch: Stopwatch, turn: int) -> Iterator[Delta | Finished]:
        with watch.part("generation"):
            self._model.reserve(1, len(job.prompt.ids) + job.room)
            decoding = Decoding(self._request(job), program(job.ask, job.schedule))
        blocks = stream(decoding, self._model.forward, cancelled)
        text, stops = TextStream(self._prompts.tokenizer, self._prompts.special), StopStrings(job.ask.stop)
        fresh: list[int] | None = []
        while fresh is not None and not stops.hit:
            if turn != self._turn:
                raise RuntimeError("another answer was started on this model before this one ended")
            with watch.part("generation"):
                fresh = next(blocks, None)
            with watch.part("decode"):
                piece = stops.push(text.push(fresh)) if fresh else stops.push(text.flush()) + stops.flush()
            if piece:
                yield Delta(piece)
        reason = "stop" if stops.hit else str(decoding.finish)
        yield Finished(reason, usage(decoding), watch.timings())

    def _request(self, job: Job) -> Request:
        ask, config = job.ask, self.config
        return Request(
            prompt=job.prompt.ids,
            max_tokens=ask.max_tokens,
            mask=config.mask,
            ends=config.ends,
            temperature=float(ask.temperature),
            seed=secrets.randbelow(LARGEST_SEED) if ask.seed is None else ask.seed,
            pads=job.prompt.pads,
            features=np.concatenate([self._features(one) for one in job.pixels]) if job.pixels else None,
        )

    def _features(self, pixels: Floats) -> Floats:
        """Projector rows of one picture; the last few are kept by content, for conversations that show the same one again."""
        key = hashlib.blake2b(pixels.tobytes(), digest_size=16, person=str(pixels.shape[1:]).encode()[:16]).digest()
        if key not in self._seen:
            self._seen[key] = self._tower.features(pixels)
        self._seen.move_to_end(key)
        if len(self._seen) > KEPT_PICTURES:
            self._seen.popitem(last=False)
        return self._seen[key]


def check(ask: Ask) -> Schedule:
    """Hold all parameters against their rules and derive the schedule. Raises Unprocessable for the first that breaks one."""
    if ask.mode not in MODES:
        raise Unprocessable(f"mode is {ask.mode!r:.60}, expected one of {', '.join(MODES)}", param="mode")
    if ask.threshold is not None:
        number("threshold", ask.threshold, 0, 1)
    number("temperature", ask.temperature, 0, HOTTEST)
    if ask.seed is not None:
        whole_number("seed", ask.seed, 0, LARGEST_SEED)
    if not all(isinstance(stop, str) and stop for stop in ask.stop):
        raise Unprocessable("stop holds something other than non-empty strings", param="stop")
    if ask.mode == "linear" and ask.temperature > 0:
        raise Unprocessable(
            f"temperature is {ask.temperature}, but linear mode is exact only at 0", param="temperature", hint="use mode diffusion or ar"
        )
    if ask.mode == "diffusion":
        return make_schedule(ask.max_tokens, ask.steps, ask.block_length)
    whole_number("max_tokens", ask.max_tokens, *MAX_TOKENS)
    whole_number("block_length", ask.block_length, *BLOCK_LENGTH)
    if ask.steps is not None:
        whole_number("num_inference_steps", ask.steps, *STEPS)
    return Schedule(ask.max_tokens, 1, 1)


def positions_needed(ask: Ask, schedule: Schedule) -> int:
    """Positions after the prompt that the answer may touch: whole blocks, and in linear mode one draft beyond the last token."""
    return ask.max_tokens + ask.block_length if ask.mode == "linear" else schedule.length


def program(ask: Ask, schedule: Schedule) -> Callable[[Decoding], Any]:
    """The decoding program of the mode. Linear drafts fill a block at once: their threshold is 0, whatever diffusion would use."""
    if ask.mode == "diffusion":
        return partial(diffuse, schedule=schedule, threshold=ask.threshold)
    return autoregress if ask.mode == "ar" else partial(speculate, length=ask.block_length)


def usage(decoding: Decoding) -> Usage:
    """The record of what has been done so far."""
    counts = decoding.counts
    return Usage(
        prompt_tokens=len(decoding.request.prompt),
        completion_tokens=len(decoding.tokens),
        num_function_evals=counts.evaluations,
        prefill=counts.prefill,
        denoise=counts.denoise,
        write=counts.write,
        draft=counts.draft,
        verify=counts.verify,
    )
