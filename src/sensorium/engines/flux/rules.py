"""What a FLUX.1 checkpoint takes: the rules of its family, [schnell] or [dev], and a wish with nothing left open.

Steps and guidance go by the hosted models' published rules, wider where the checkpoint itself is (guidance from 1, steps to 100). It
knows no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from sensorium.engines.drawing import PROMPT, SEED, Draw
from sensorium.errors import Unprocessable
from sensorium.wire import parameters
from sensorium.wire.parameters import Integer, Number, OneOf, Rule

Family = Literal["schnell", "dev"]
NATIVE_SIDE: Final = 1024
SIDE_MIN: Final = 256
SIDE_MAX: Final = 2048
PIXELS_MAX: Final = 2 * 1024 * 1024
"""The most that FLUX.1 was trained for; larger pictures fall apart into repetitions."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A wish after its checks: nothing is left open. `ignored` has no effect: words of the prompt beyond the text encoder's limit."""

    prompt: str
    ignored: tuple[str, ...]
    seed: int
    steps: int
    guidance: float
    width: int
    height: int

    @property
    def caption(self) -> str:
        """None of its own: the prompt is drawn as it is."""
        return ""


@dataclass(frozen=True, slots=True)
class Rules:
    """One family's. `tokens` is how many of a prompt T5 reads, its end mark included; `multiple` what the sides are multiples of."""

    family: Family
    steps: Integer
    default_steps: int
    guidance: Rule
    default_guidance: float
    tokens: int
    multiple: int = 16

    def resolve(self, wish: Draw, ignored: tuple[str, ...], taker: str) -> Resolved:
        """Fill in defaults. Raises Unprocessable that names parameter, value and range; nothing is changed silently."""
        parameters.check("prompt", wish.prompt, PROMPT, taker)
        seed = int(parameters.check("seed", wish.seed, SEED, taker))
        steps = parameters.optional("steps", wish.steps, self.steps, taker)
        guidance = parameters.optional("cfg_scale", wish.guidance, self.guidance, taker)
        width, height = self._sides(wish, taker)
        return Resolved(
            prompt=wish.prompt,
            ignored=ignored,
            seed=seed,
            steps=int(steps if steps is not None else self.default_steps),
            guidance=float(guidance or self.default_guidance),
            width=width,
            height=height,
        )

    def _sides(self, wish: Draw, taker: str) -> tuple[int, int]:
        for name, given in (("width", wish.width), ("height", wish.height)):
            self._side(name, given, taker)
        width = int(wish.width or wish.height or min(NATIVE_SIDE, SIDE_MAX))
        height = int(wish.height or wish.width or width)
        if width * height > PIXELS_MAX:
            fitting = PIXELS_MAX // width // self.multiple * self.multiple
            raise Unprocessable(
                f"width x height is {width} x {height}; {taker} draws at most {PIXELS_MAX} pixels; the nearest height is {fitting}",
                param="height",
            )
        return width, height

    def _side(self, name: str, given: int | None, taker: str) -> None:
        sides = Integer(-(-SIDE_MIN // self.multiple) * self.multiple, SIDE_MAX // self.multiple * self.multiple, self.multiple)
        if given is None or sides.admits(given):
            return
        near = ""
        if isinstance(given, int | float) and not isinstance(given, bool) and abs(given) < 1e9:
            below = min(max(int(given // self.multiple) * self.multiple, sides.low), sides.high)
            above = min(max(-int(-given // self.multiple) * self.multiple, sides.low), sides.high)
            near = f"; the nearest is {below}" if below == above else f"; the nearest are {below} and {above}"
        raise Unprocessable(f"{name} is {parameters.shown(given)}; {taker} takes {sides}{near}", param=name)


def of_family(family: Family, multiple: int = 16) -> Rules:
    """The rules of [schnell], which was distilled to few steps without guidance, or of [dev], which takes guidance as an input."""
    if family == "schnell":
        return Rules("schnell", Integer(1, 4), 4, OneOf((0,)), 0.0, 256, multiple)
    return Rules("dev", Integer(5, 100), 50, Number(1, 20, or_zero=True), 3.5, 512, multiple)


def family_of(guided: bool, shifting: bool) -> Family | None:
    """The family by what the checkpoint says: whether its transformer takes guidance, and whether its scheduler shifts by picture size.

    None for a mixture: such a derivative needs another way of drawing.
    """
    if guided != shifting:
        return None
    return "dev" if guided else "schnell"
