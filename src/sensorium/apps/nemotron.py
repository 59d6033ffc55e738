"""The app fal-ai/nemotron-diffusion-vlm: a question about a picture, answered block by block (fal page, section 9).

It is a chat call of the catalogue's model of that id, whoever serves it.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from sensorium.apps.answers import Said, answered, asking, count, growing, seconds
from sensorium.apps.app import Output, Task, UnknownApp, last
from sensorium.apps.files import Files, inlined
from sensorium.apps.openapi import Described, describe
from sensorium.apps.pictures import blamed_on
from sensorium.apps.progress import told
from sensorium.apps.reading import REAL, WHOLE, Input, Text, blamed, described, read
from sensorium.errors import SensoriumError
from sensorium.routing import byline
from sensorium.routing.call import Call, Reply
from sensorium.routing.dispatch import Dispatch
from sensorium.wire.fal_errors import Refused, detail

ID: Final = "fal-ai/nemotron-diffusion-vlm"
STEPS, MOST_STEPS = 256, 1024
SAID_EVERY: Final = 400  # characters of a hosted model's answer between two lines of the log
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
        Literal["diffusion", "ar", "linear"],
        described("How to decode: by block diffusion, one token after the other, or drafted and verified. Not a part of fal's own schema."),
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


class Nemotron:
    """The app. `clock` counts seconds."""

    id = ID

    def __init__(self, dispatch: Dispatch, files: Files, clock: Callable[[], float] = time.monotonic) -> None:
        self._dispatch, self._files, self._clock = dispatch, files, clock

    def lane(self, path: str) -> str:
        """The model. Raises UnknownApp for a sub-path: it has none."""
        if path:
            raise UnknownApp(f"Application '{ID}{path}' not found", hint=f"{ID} has no sub-paths")
        return ID

    async def run(self, task: Task) -> Output:
        """The whole answer. Raises Refused for a bad input or picture, and what a dispatch raises."""
        return await last(self.stream(task))

    async def stream(self, task: Task) -> AsyncGenerator[Output, None]:
        """The answer's text so far, each time that a block of it is committed; then the whole output."""
        with told(task, self.lane(task.path)):
            begun = self._clock()
            asked = read(NemotronDiffusionVLMInput, task.input)
            steps = scheduled(asked)
            url = await inlined(self._files, task, "image_url", asked.image_url)
            said, shown = Said(), ""
            try:
                reply = await answered(self._dispatch, _call(task, asked, steps, url))
                lines = Lines(task, asked, reply)
                async with aclosing(growing(reply)) as growth:
                    async for said in growth:
                        if said.text != shown:
                            lines.tell(said)
                            shown = said.text
                            yield Output({"output": shown}, headers=byline.origin(reply))
            except SensoriumError as error:
                raise blamed(blamed_on(error, task, "image_url", asked.image_url), PARAMETERS) from None
            yield Output(_output(said, self._clock() - begun), headers=byline.origin(reply))

    def openapi(self, path: str, base_url: str) -> dict[str, Any]:
        """The description. Raises UnknownApp for a sub-path."""
        title = "Nemotron-Labs-Diffusion-VLM"
        return describe(
            Described(self.lane(path), title, "chat", NemotronDiffusionVLMInput, NemotronDiffusionVLMOutput, streams=True), base_url
        )


class Lines:
    """The log of an answer while it is written: blocks of a model of ours, characters of a hosted one."""

    def __init__(self, task: Task, asked: NemotronDiffusionVLMInput, reply: Reply) -> None:
        self._log, self._blocks, self._seen = task.log, asked.blocks, 0
        self._in_blocks = reply.route.provider.local and asked.mode == "diffusion"

    def tell(self, said: Said) -> None:
        """A line about what is new, if it is worth one."""
        if self._in_blocks:
            for number in range(self._seen + 1, min(said.pieces, self._blocks) + 1):
                self._log(f"block {number} of {self._blocks}")
            self._seen = said.pieces
        elif len(said.text) - self._seen >= SAID_EVERY or not self._seen:
            self._seen = len(said.text)
            self._log(f"{self._seen} characters")


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


def _call(task: Task, asked: NemotronDiffusionVLMInput, steps: int | None, url: str) -> Call:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": asked.prompt}]
    given = {
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": asked.max_tokens,
        "num_inference_steps": steps,
        "block_length": asked.block_length,
        "threshold": asked.threshold,
        "mode": None if asked.mode == "diffusion" else asked.mode,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return asking(task, ID, "chat", ("openai", "fal"), "chat/completions", given, needs=frozenset({"vision"}), stream=True)


def _output(said: Said, measured: float) -> dict[str, Any]:
    stages = {name: round(seconds(said.timings.get(name)), 6) for name in STAGES}
    total = round(seconds(said.timings.get("total_time")) or measured, 6)
    counts = {name: count(said.usage.get(name)) for name in NemotronDiffusionVLMUsage.model_fields}
    made = NemotronDiffusionVLMOutput(
        output=said.text,
        usage=NemotronDiffusionVLMUsage(**counts),
        timings=NemotronDiffusionVLMTimings(total_time=max(total, sum(stages.values())), **stages),
    )
    return made.model_dump()
