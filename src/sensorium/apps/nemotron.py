"""The app fal-ai/nemotron-diffusion-vlm: a question about a picture, answered block by block (fal page, section 9).

It is a chat call of the catalogue's model of that id, whoever serves it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from sensorium.apps.answers import Said, answered, asking, count, growing, seconds
from sensorium.apps.app import Output, Task, UnknownApp, last
from sensorium.apps.files import Files, inlined
from sensorium.apps.pictures import blamed_on
from sensorium.apps.progress import told
from sensorium.errors import SensoriumError
from sensorium.routing import byline
from sensorium.routing.call import Call, Reply
from sensorium.routing.dispatch import Dispatch
from sensorium.wire.fal_input import blamed, read
from sensorium.wire.fal_openapi import Described, describe
from sensorium.wire.fal_vlm import PARAMETERS, NemotronDiffusionVLMInput, NemotronDiffusionVLMOutput, output, scheduled

ID: Final = "fal-ai/nemotron-diffusion-vlm"
SAID_EVERY: Final = 400  # characters of a hosted model's answer between two lines of the log


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
            counts = {name: count(told) for name, told in said.usage.items()}
            spent = {name: seconds(told) for name, told in said.timings.items()}
            yield Output(output(said.text, counts, spent, self._clock() - begun), headers=byline.origin(reply))

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
