"""fal-ai/nemotron-diffusion-vlm as fal describes it: its input and its output, and the schedule that follows from an input. Pure.

The hub's app and the engine's own door read and answer with the same models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from sensorium.wire.fal_errors import Refused, detail
from sensorium.wire.fal_input import REAL, WHOLE, Input, Text, described

STEPS, MOST_STEPS = 256, 1024
STAGES: Final = ("image_validation_time", "preprocessing_time", "gpu_transfer_time", "generation_time", "decode_time")
PARAMETERS: Final = {name: name for name in ("max_tokens", "num_inference_steps", "block_length", "threshold", "mode")} | {
    "steps": "num_inference_steps",
    "messages": "prompt",
}
EXAMPLE: Final = "https://storage.googleapis.com/falserverless/example_inputs/dog.png"
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS), WHOLE]


class NemotronDiffusionVLMInput(Input):
    """A picture and a question about it."""

    image_url: Annotated[Text, described("URL of the image to be processed.", example=EXAMPLE)]
    prompt: Annotated[Text, described("Prompt to answer about the image.", example="Describe the image in one short sentence.")]
    max_tokens: Annotated[int, Field(ge=1, le=8192), WHOLE, described("Maximum number of tokens to generate.")] = 512
    num_inference_steps: Annotated[
        Steps | None,
        described(
            "Number of diffusion decoding steps. Defaults to 256, rounded up only when omitted and required by the block schedule. "
            "Explicit values must be at least max_tokens / block_length and divisible by max_tokens / block_length.",
            default=STEPS,
        ),
    ] = None
    inference_steps: SkipJsonSchema[Steps | None] = None
    block_length: Annotated[int, Field(ge=8, le=128), WHOLE, described("Block length used by diffusion decoding.")] = 32
    threshold: Annotated[
        float, Field(ge=0, le=1, allow_inf_nan=False), REAL, described("Confidence threshold used by diffusion decoding.")
    ] = 0.9
    mode: Annotated[
        Literal["diffusion", "ar", "linear", "auto"],
        described(
            "How to decode: by block diffusion, one token after the other, drafted and verified, or the quicker of these last two. "
            "Not a part of fal's own schema."
        ),
    ] = "diffusion"

    @property
    def blocks(self) -> int:
        """How many blocks the answer may have; the last one is cut where `max_tokens` ends."""
        return -(-self.max_tokens // self.block_length)


class NemotronDiffusionVLMUsage(BaseModel):
    """Token and diffusion decoding usage information."""

    prompt_tokens: Annotated[int, described("Number of prompt tokens sent to the model.")]
    completion_tokens: Annotated[int, described("Number of generated completion tokens.")]
    num_function_evals: Annotated[int, described("Number of model function evaluations used for generation.")]


class NemotronDiffusionVLMTimings(BaseModel):
    """Request timing breakdown in seconds; 0 for a stage that whoever answered does not tell."""

    total_time: Annotated[float, described("Total request time in seconds.")]
    image_validation_time: Annotated[float, described("Time spent validating and loading the input image.")]
    preprocessing_time: Annotated[float, described("Time spent expanding the chat template and preprocessing tensors.")]
    gpu_transfer_time: Annotated[float, described("Time spent moving tensors to the GPU.")]
    generation_time: Annotated[float, described("Time spent inside model generation.")]
    decode_time: Annotated[float, described("Time spent decoding output token IDs to text.")]


class NemotronDiffusionVLMOutput(BaseModel):
    """The answer, what it cost, and how long it took."""

    output: Annotated[str, described("Generated answer.", example="The image shows a dog sitting outdoors.")]
    usage: NemotronDiffusionVLMUsage
    timings: NemotronDiffusionVLMTimings


def output(text: str, counts: Mapping[str, int], spent: Mapping[str, float], measured: float = 0.0) -> dict[str, Any]:
    """The whole answer. `counts` are those of its usage, `spent` seconds by stage; where no total is told it is `measured`."""
    stages = {name: round(spent.get(name, 0.0), 6) for name in STAGES}
    total = round(spent.get("total_time") or measured, 6)
    made = NemotronDiffusionVLMOutput(
        output=text,
        usage=NemotronDiffusionVLMUsage(**{name: counts.get(name, 0) for name in NemotronDiffusionVLMUsage.model_fields}),
        timings=NemotronDiffusionVLMTimings(total_time=max(total, sum(stages.values())), **stages),
    )
    return made.model_dump()


def scheduled(asked: NemotronDiffusionVLMInput) -> int | None:
    """The steps of the whole answer; None where the mode has none of its own and none are given.

    Left out they are 256, rounded up to a multiple of the blocks. Raises Refused for two spellings that differ, and for steps that cannot
    be shared evenly by the blocks, naming the nearest that can.
    """
    first, other = asked.num_inference_steps, asked.inference_steps
    if first is not None and other is not None and first != other:
        said = f"inference_steps is another name of num_inference_steps; they were given different values ({other} and {first})"
        raise Refused([detail("inference_steps", said, "value_error", input=other)])
    name, given, blocks = ("num_inference_steps", first, asked.blocks) if first is not None else ("inference_steps", other, asked.blocks)
    if asked.mode != "diffusion":
        return given
    if given is None:
        return math.ceil(STEPS / blocks) * blocks
    if given % blocks == 0:
        return given
    shape = f"{blocks} (max_tokens {asked.max_tokens} / block_length {asked.block_length}); nearest valid value"
    if given < blocks:
        said = f"Input should be greater than or equal to {shape}: {blocks}"
        raise Refused([detail(name, said, "greater_than_equal", ctx={"ge": blocks}, input=given)])
    said = f"Input should be a multiple of {shape}{_nearest(given, blocks)}"
    raise Refused([detail(name, said, "multiple_of", ctx={"multiple_of": blocks}, input=given)])


def _nearest(given: int, blocks: int) -> str:
    below, above = given // blocks * blocks, (given // blocks + 1) * blocks
    return f"s: {below} and {above}" if above <= MOST_STEPS else f": {below}"
