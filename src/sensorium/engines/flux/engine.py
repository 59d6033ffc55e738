"""FLUX.1 through diffusers: a prompt in, a picture out, with a word after every step.

It knows neither HTTP nor queues. Pictures are diffusers' own, bit for bit; what is added are checks, ends in the middle, and prompts
that are encoded once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer

from sensorium.engines import devices
from sensorium.engines.drawing import PROMPT, Draw, Drawing, Step, finished, never
from sensorium.engines.flux import fitting, folder, loading
from sensorium.engines.flux.embeddings import Embeddings, Encoded
from sensorium.engines.flux.rules import NATIVE_SIDE, Resolved, Rules
from sensorium.engines.orders import ModelOrder
from sensorium.errors import Cancelled, SettingsError, UpstreamFailed

WARM_UP: Final = ((NATIVE_SIDE, NATIVE_SIDE), (NATIVE_SIDE, 768))
"""What is compiled for one size is compiled once more for a second one, and then for all."""
log = logging.getLogger("sensorium.engine")
Stopped = Callable[[], bool]
Tell = Callable[[Step], None]


class Flux:
    """A loaded FLUX.1 model. One drawing at a time; a lane serialises. `bytes` is what it takes on its device."""

    scope: str | None = None

    def __init__(self, name: str, rules: Rules, pipeline: Any, device: Any, size: int = 0) -> None:
        self.name, self.rules, self.device, self.bytes = name, rules, device, size
        self.embeddings = Embeddings()
        self._pipeline = pipeline
        # A tokenizer of its own: the pipeline's changes its settings while it is used, on another thread.
        self._words = Tokenizer.from_str(pipeline.tokenizer_2.backend_tokenizer.to_str())
        self._words.no_truncation()
        self._words.no_padding()
        self._thread = ThreadPoolExecutor(1, "flux")
        self._stream: Any = None
        if device.type == "cuda":
            # Of its own: on the common one, whatever else uses the device would stand behind all that a step has ordered.
            self._stream = torch.cuda.Stream(device)
            torch.cuda.synchronize(device)  # the weights were written on the common one

    @classmethod
    def load(cls, path: Path, order: ModelOrder, progress: loading.Progress | None = None) -> Flux:
        """Read a checkpoint's folder as `order` says. `progress` gets the bytes read so far and those in all.

        Raises SettingsError that lists what is missing, of another kind or cannot go together; Unavailable (out_of_memory) when the
        device is too small.
        """
        checkpoint = folder.read(path)
        device = devices.choose(order.device)
        problems = fitting.missing(order) + fitting.conflicts(order, device.type)
        if problems:
            raise SettingsError([f"{path.name}: {problem}" for problem in problems])
        dtype = devices.dtype(order.dtype, device)
        pipeline = loading.load(checkpoint, order, device, dtype, progress)
        working = fitting.WORKING_BYTES if device.type == "cuda" else 0
        size = loading.weight_bytes(pipeline, order.offload) + working
        model = cls(order.name or path.name, checkpoint.rules, pipeline, device, size)
        if device.type == "cuda":
            model._warm_up(WARM_UP[: 2 if order.compile else 1])
        return model

    def check(self, wish: Draw) -> Resolved:
        """Fill in defaults and refuse what cannot be drawn, without drawing. Raises Unprocessable that names parameter, value and range.

        A prompt longer than T5 reads is drawn as far as it is read; the words beyond are in `ignored`. (CLIP, which only sets the
        overall tone, reads 77 tokens of any prompt: FLUX was trained so.)
        """
        return self.rules.resolve(wish, self._unread(wish.prompt), self.name)

    def draw(self, wish: Draw, cancelled: Stopped = never) -> Drawing:
        """Draw. Raises as `steps` does."""
        return finished(self.steps(wish, cancelled))

    def steps(self, wish: Draw, cancelled: Stopped = never) -> Iterator[Step | Drawing]:
        """A Step after each of them, then the Drawing. Closing the iterator ends the work after the step that is under way.

        Raises Unprocessable as `check` does, Cancelled between two steps, Unavailable (out_of_memory), after which the model can be used
        again, and UpstreamFailed when numbers overflowed and there is no picture.
        """
        resolved = self.check(wish)
        told: SimpleQueue[Step | None] = SimpleQueue()
        left = threading.Event()
        work = self._thread.submit(self._paint, resolved, lambda: left.is_set() or cancelled(), told.put)
        work.add_done_callback(lambda _: told.put(None))
        try:
            while (step := told.get()) is not None:
                yield step
            yield work.result()
        finally:
            left.set()
            wait([work])

    def unload(self) -> None:
        """Let go of the weights and give their memory back. The model cannot be used after it."""
        self._thread.shutdown()
        self._pipeline = None
        self.embeddings.clear()
        loading.free(self.device)

    def _unread(self, prompt: Any) -> tuple[str, ...]:
        """The words of a prompt beyond what T5 reads."""
        if not PROMPT.admits(prompt):  # it is refused anyway, and megabytes would take long
            return ()
        read = self._words.encode(prompt)
        if len(read.ids) <= self.rules.tokens:
            return ()
        last = self.rules.tokens - 2  # one place is the end mark's
        return tuple(prompt[read.offsets[last][1] :].split())

    def _paint(self, resolved: Resolved, stopped: Stopped, tell: Tell) -> Drawing:
        """A drawing; without compiled blocks where those fail."""
        try:
            with loading.on(self.device):
                return self._attempt(resolved, stopped, tell)
        except RuntimeError as error:
            devices.check_alive(self.device)
            full = loading.is_full(error)
            if not full and not loading.eager(self._pipeline):
                raise
            if not full:
                log.warning("%s: compiled blocks failed, going on without: %s", self.name, str(error)[:500])
        # Outside of the handlers: an error's traceback holds on to every tensor of its frames.
        loading.free(self.device)
        if not full:
            return self._paint(resolved, stopped, tell)
        raise loading.out_of_memory(f"{self.device} has too little free memory for a picture of {resolved.width} x {resolved.height}")

    def _attempt(self, resolved: Resolved, stopped: Stopped, tell: Tell) -> Drawing:
        try:
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                pixels = self._pixels(resolved, stopped, tell)
        except BaseException:
            self._pipeline.maybe_free_model_hooks()
            raise
        if not np.isfinite(pixels).all():
            raise UpstreamFailed(
                f"{self.name} computed numbers beyond its format's range, so there is no picture", hint="set dtype to bfloat16 or float32"
            )
        image = self._pipeline.image_processor.numpy_to_pil(pixels)[0]
        return Drawing(image, resolved.seed, "", resolved.ignored)

    def _pixels(self, resolved: Resolved, stopped: Stopped, tell: Tell) -> Any:
        """[1, height, width, 3] float32 in 0..1."""

        def after(_: Any, number: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()  # a step is told when it is done, not when it is ordered
            tell(Step(number + 1, resolved.steps))
            _go_on(stopped)
            return tensors

        _go_on(stopped)
        encoded = self._encoded(resolved.prompt)
        _go_on(stopped)
        made = self._pipeline(
            prompt_embeds=encoded.sequence,
            pooled_prompt_embeds=encoded.pooled,
            width=resolved.width,
            height=resolved.height,
            num_inference_steps=resolved.steps,
            guidance_scale=resolved.guidance,
            generator=torch.Generator().manual_seed(resolved.seed),
            max_sequence_length=self.rules.tokens,
            callback_on_step_end=after,
            output_type="np",
        )
        return made.images

    def _encoded(self, prompt: str) -> Encoded:
        """The prompt on the device, from the cache or by both text encoders."""
        key = (prompt, self.rules.tokens)
        kept = self.embeddings.get(key)
        if kept is not None:
            return kept.to(self.device)
        with torch.no_grad():
            sequence, pooled, _ = self._pipeline.encode_prompt(prompt, max_sequence_length=self.rules.tokens)
        fresh = Encoded(sequence, pooled)
        self.embeddings.put(key, fresh.resting(self.device.type == "cuda"))
        return fresh

    def _warm_up(self, sizes: Sequence[tuple[int, int]]) -> None:
        """One step at each size: allocates, compiles, and fails here rather than under a caller."""
        for width, height in sizes:
            self._paint(Resolved("warm-up", (), 0, 1, self.rules.default_guidance, width, height), never, lambda _: None)


def _go_on(stopped: Stopped) -> None:
    if stopped():
        raise Cancelled("the picture was abandoned before its last step")
