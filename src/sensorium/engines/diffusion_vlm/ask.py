"""One question to a diffusion VLM: its parameters, their rules, and the decoding program that they choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from sensorium.engines.diffusion_vlm.answer_schema import check_mode
from sensorium.engines.diffusion_vlm.constrained import AT_ONCE, constrain, constrain_singly
from sensorium.engines.diffusion_vlm.decode import Decoding, Program, autoregress, diffuse, speculate
from sensorium.engines.diffusion_vlm.grammar import Grammar
from sensorium.engines.diffusion_vlm.rows import Floats
from sensorium.engines.diffusion_vlm.schedule import BLOCK_LENGTH, MAX_TOKENS, STEPS, Schedule, make_schedule, number, whole_number
from sensorium.errors import Unprocessable

MODES = ("diffusion", "ar", "linear", "auto")
HOTTEST = 2.0
LARGEST_SEED = 2**63 - 1
# Tokens in one forward up to which reading the weights, not arithmetic, is what takes time (an H100's ridge at bfloat16).
RIDGE = 256


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as the tower takes it, the digest of all that its pixels follow from, and how many tokens it becomes."""

    pixels: Floats
    digest: bytes
    cells: int


@dataclass(frozen=True, slots=True)
class Ask:
    """One question.

    `messages` are mappings of role (system, user, assistant) and content, a list of {"type": "text", "text"} and {"type": "image"} parts;
    `images` are the pictures of those parts, in order, as they are or as `DiffusionVLM.see` returned them. `steps` is the budget over all
    blocks (None: 256, rounded up), `threshold` the confidence that commits a token (None: an even share of the masks per step); both act
    in diffusion mode only. `mode` "auto" gives what "ar" gives by whichever of "linear" and "ar" is quicker now. `seed` matters at a
    temperature above 0, None draws one. `schema` is the text of a JSON schema that the answer must fit.
    """

    messages: Sequence[Mapping[str, Any]]
    images: Sequence[Image.Image | Picture] = ()
    max_tokens: int = 512
    steps: int | None = None
    block_length: int = 32
    threshold: float | None = 0.9
    mode: str = "diffusion"
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: str | None = None


def check(ask: Ask) -> Schedule:
    """Hold all parameters against their rules and derive the schedule. Raises Unprocessable for the first that breaks one."""
    if ask.mode not in MODES:
        raise Unprocessable(f"mode is {ask.mode!r:.60}, expected one of {', '.join(MODES)}", param="mode")
    check_mode(ask.mode, ask.schema)
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
    """Positions after the prompt that the answer may touch: whole blocks, and one draft beyond the last token where there are drafts."""
    if ask.schema is not None:
        return ask.max_tokens + max(ask.block_length, AT_ONCE)
    return ask.max_tokens + ask.block_length if chosen(ask, depth=1) == "linear" else schedule.length


def chosen(ask: Ask, depth: int) -> str:
    """The mode that an answer is made in while `depth` answers, itself included, are in the making or wait.

    Drafts spend arithmetic to save readings of the weights, which pays while a forward of all answers stays below the ridge.
    """
    if ask.mode != "auto":
        return ask.mode
    return "linear" if ask.temperature == 0 and depth * ask.block_length <= RIDGE else "ar"


def program(ask: Ask, schedule: Schedule, mode: str, grammar: Grammar | None) -> Callable[[Decoding], Program]:
    """The decoding program of a mode. Linear drafts fill a block at once: their threshold is 0, whatever diffusion would use."""
    if grammar is not None:
        return partial(constrain_singly, grammar=grammar) if mode == "ar" else partial(constrain, grammar=grammar, length=ask.block_length)
    if mode == "diffusion":
        return partial(diffuse, schedule=schedule, threshold=ask.threshold)
    return autoregress if mode == "ar" else partial(speculate, length=ask.block_length)
