"""How many blocks and denoising steps an answer gets, and how masks are spread over steps. Pure arithmetic on call parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sensorium.errors import Unprocessable

MAX_TOKENS = (1, 8192)
STEPS = (1, 1024)
BLOCK_LENGTH = (8, 128)
DEFAULT_STEPS = 256


@dataclass(frozen=True, slots=True)
class Schedule:
    """`blocks` blocks of `block_length` tokens, each unmasked in at most `steps` forwards."""

    blocks: int
    block_length: int
    steps: int

    @property
    def length(self) -> int:
        """Positions that the answer's blocks occupy."""
        return self.blocks * self.block_length

    def quotas(self) -> list[int]:
        """Masks to resolve in each step of a block when no threshold is given: even, the remainder to the earliest steps."""
        share, extra = divmod(self.block_length - 1, self.steps)
        return [share + (step < extra) for step in range(self.steps)]


def make_schedule(max_tokens: int, steps: int | None, block_length: int) -> Schedule:
    """The schedule of a block-diffusion answer. `steps` counts over all blocks, None means 256 rounded up to a multiple of the blocks.

    Raises Unprocessable for values out of range, and for steps that cannot be shared evenly, naming the nearest valid values.
    """
    whole_number("max_tokens", max_tokens, *MAX_TOKENS)
    whole_number("block_length", block_length, *BLOCK_LENGTH)
    blocks = math.ceil(max_tokens / block_length)
    if steps is None:
        return Schedule(blocks, block_length, math.ceil(DEFAULT_STEPS / blocks))
    whole_number("num_inference_steps", steps, *STEPS)
    if steps % blocks:
        below, above = steps // blocks * blocks, math.ceil(steps / blocks) * blocks
        nearest = " or ".join(str(value) for value in (below, above) if blocks <= value <= STEPS[1])
        raise Unprocessable(
            f"num_inference_steps {steps} is no multiple of {blocks}, the number of blocks (max_tokens {max_tokens} in blocks of "
            f"{block_length}); the nearest valid value is {nearest}",
            param="num_inference_steps",
        )
    return Schedule(blocks, block_length, steps // blocks)


def whole_number(name: str, value: object, least: int, most: int) -> None:
    """Refuse anything but an int in range; booleans, floats and 0 are values like others, never "not given"."""
    if type(value) is not int or not least <= value <= most:
        raise Unprocessable(f"{name} is {value!r:.60}, expected a whole number from {least} to {most}", param=name)


def number(name: str, value: object, least: float, most: float) -> None:
    """Refuse anything but a finite number in range; booleans are not numbers here."""
    if type(value) not in (int, float) or not least <= value <= most:  # type: ignore[operator]
        raise Unprocessable(f"{name} is {value!r:.60}, expected a number from {least:g} to {most:g}", param=name)
