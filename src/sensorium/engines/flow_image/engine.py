"""The drawing engine: a prompt in, a picture out.

A prompt is read with the world's grammar, gaps are filled from the seed, and the model only ever sees the canonical caption that results.
The engine knows neither HTTP nor queues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sensorium.engines import weights
from sensorium.engines.drawing import PROMPT, SEED, Draw, Drawing, Step, finished, never
from sensorium.engines.flow_image import config as configuration
from sensorium.engines.flow_image import noise, numpy_model, sampler, text, world
from sensorium.engines.flow_image.config import FlowConfig
from sensorium.engines.flow_image.numpy_model import Array, FluxTransformer
from sensorium.engines.flow_image.text import CaptionTokenizer, TextEncoder
from sensorium.errors import Unprocessable
from sensorium.wire import parameters
from sensorium.wire.parameters import Integer, Number

SIDE_MAX = 2048
TRANSFORMER_FILE = "diffusion_pytorch_model"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A wish after its checks: nothing is left open. `ignored` was asked for and has no effect: words of the prompt, `cfg_scale`."""

    caption: str
    ignored: tuple[str, ...]
    seed: int
    steps: int
    guidance: float
    width: int
    height: int


class FlowImage:
    """A loaded drawing model. Not safe for use from several threads at once; a lane serialises."""

    def __init__(self, config: FlowConfig, transformer: FluxTransformer, encoder: TextEncoder, tokenizer: CaptionTokenizer) -> None:
        self.config, self.name, self.scope = config, config.name, config.scope
        self._transformer, self._encoder, self._tokenizer = transformer, encoder, tokenizer

    @classmethod
    def load(cls, folder: Path) -> FlowImage:
        """Read a model folder. Raises SettingsError that lists everything missing, unexpected or mis-shaped."""
        config = configuration.load(folder)
        tokenizer = CaptionTokenizer(folder / "tokenizer.json", config.text)
        tensors = weights.load_finite(folder, numpy_model.plan(config.transformer), stem=TRANSFORMER_FILE)
        stem = config.text.weights.removesuffix(".safetensors")
        stored = weights.open_tensors(folder, stem)
        rows = stored.shape(text.EMBEDDING)[0] if text.EMBEDDING in stored else 0
        words = weights.load_finite(folder, text.plan(config.text, max(rows, tokenizer.size)), stem=stem)
        transformer = FluxTransformer(config.transformer, tensors, config.text.slots, config.grid)
        return cls(config, transformer, TextEncoder(config.text, words), tokenizer)

    def check(self, wish: Draw) -> Resolved:
        """Fill in defaults and refuse what cannot be drawn, without drawing. Raises Unprocessable that names parameter, value and range."""
        native, taker = self.config.size, self.name
        parameters.check("prompt", wish.prompt, PROMPT, taker)
        seed = int(parameters.check("seed", wish.seed, SEED, taker))
        steps = parameters.optional("steps", wish.steps, Integer(1, self.config.max_steps), taker) or self.config.default_steps
        width = parameters.optional("width", wish.width, Integer(native, SIDE_MAX), taker)
        height = parameters.optional("height", wish.height, Integer(native, SIDE_MAX), taker)
        guidance = self._guidance(wish.guidance)
        caption, ignored = caption_of(wish.prompt, seed)
        if self.config.guidance.kind == "none" and wish.guidance:
            ignored += ("cfg_scale",)
        return Resolved(caption, ignored, seed, int(steps), guidance, int(width or height or native), int(height or width or native))

    def draw(self, wish: Draw, cancelled: Callable[[], bool] = never) -> Drawing:
        """Draw. Raises Unprocessable as `check` does, and Cancelled between two steps."""
        return finished(self.steps(wish, cancelled))

    def steps(self, wish: Draw, cancelled: Callable[[], bool] = never) -> Iterator[Step | Drawing]:
        """As `draw`: a Step after each of them, then the Drawing."""
        resolved = self.check(wish)
        ids = self._tokenizer.ids(resolved.caption)
        schedule = sampler.times(resolved.steps, self.config.shift)
        predict = self._predictor(ids, schedule[:-1], resolved.guidance)
        tokens = noise.normal(resolved.seed, (self.config.grid**2, self.config.transformer.in_channels))
        for number, after in enumerate(sampler.walk(predict, tokens, schedule, cancelled), 1):
            tokens = after
            yield Step(number, resolved.steps)
        image = enlarged(self._picture(tokens), resolved.width, resolved.height)
        yield Drawing(image, resolved.seed, resolved.caption, resolved.ignored)

    def _predictor(self, ids: Any, times: Any, guidance: float) -> Callable[[Array, int], Array]:
        model, mixed = self._transformer, self.config.guidance.kind == "mixed" and guidance != 1.0
        told = model.condition(*self._encoder.encode(ids), times, guidance)
        if not mixed:
            return lambda x, step: model.predict(x, told, step)
        blank = model.condition(*self._encoder.encode(np.full_like(ids, self.config.text.pad_token_id)), times, guidance)

        def blend(x: Array, step: int) -> Array:
            blind = model.predict(x, blank, step)
            return blind + np.float32(guidance) * (model.predict(x, told, step) - blind)

        return blend

    def _guidance(self, given: float | None) -> float:
        rule = self.config.guidance
        span = Number() if rule.kind == "none" else Number(rule.low, rule.high, or_zero=True)
        number = parameters.optional("cfg_scale", given, span, self.name)
        return float(number) if number and rule.kind != "none" else rule.default

    def _picture(self, tokens: Array) -> Image.Image:
        """Tokens [grid x grid, patch x patch x 3] in -1..1, inside a token row, column, channel -> RGB."""
        grid, patch, size = self.config.grid, self.config.patch, self.config.size
        pixels = tokens.reshape(grid, grid, patch, patch, 3).transpose(0, 2, 1, 3, 4).reshape(size, size, 3)
        return Image.fromarray(np.rint((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8))


def caption_of(prompt: str, seed: int) -> tuple[str, tuple[str, ...]]:
    """The canonical caption that a prompt becomes with this seed, and what of the prompt is not in it.

    Raises Unprocessable when the prompt names no known shape, asks for a sign, or for what the world cannot hold.
    """
    parsed = world.parse(prompt)
    if parsed.scene.kind == "sign":
        raise Unprocessable(f"prompt: this model cannot draw signs or lettering; it knows {world.describe_world()}", param="prompt")
    if not parsed.scene.kind:
        raise Unprocessable(f"prompt names no shape that this model can draw; it knows {world.describe_world()}", param="prompt")
    scene = world.complete(parsed, seed)
    reason = world.problem(scene)
    if reason is not None:
        raise Unprocessable(f"prompt: {reason}", param="prompt")
    pairs = zip(parsed.scene.things, scene.things, strict=True)
    changed = tuple(asked.size for asked, drawn in pairs if asked.size is not None and asked.size != drawn.size)
    return world.canonical(scene), tuple(dict.fromkeys((*parsed.unknown, *changed)))


def enlarged(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale a square picture to the shorter side (Lanczos) and extend the longer one by repeating its border pixels."""
    side = min(width, height)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    if width == height:
        return image
    across, down = width - side, height - side
    padding = ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), padding, mode="edge"))
