"""fal's dialect of a vision model at the engine itself: one call with a picture and a question, answered whole or as it grows
(fal.md, sections 4.1 and 4.7).

The rules of the input are those of the hub's app (`wire/fal_vlm`). It knows neither transport nor queue.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import msgspec

from sensorium.engines.chat import ChatCall, timings
from sensorium.engines.diffusion_vlm.answering import Delta, Finished
from sensorium.engines.diffusion_vlm.ask import Ask
from sensorium.errors import SensoriumError
from sensorium.fetch import BYTE_CAP
from sensorium.wire import fal_pictures, fal_submit, sse
from sensorium.wire.fal_input import blamed, read
from sensorium.wire.fal_vlm import PARAMETERS, NemotronDiffusionVLMInput, output, scheduled

ONLY: Final = "*"
PICTURE: Final = "image_url"


def asked(body: bytes, model: str) -> ChatCall:
    """Read a body; `model` is the name in the path, "" where there is none. Raises Refused with every fault, as fal words them."""
    found = read(NemotronDiffusionVLMInput, fal_submit.decoded(body))
    ask = Ask(
        messages=[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": found.prompt}]}],
        max_tokens=found.max_tokens,
        steps=scheduled(found),
        block_length=found.block_length,
        threshold=found.threshold,
        mode=found.mode,
    )
    return ChatCall(model or ONLY, ask, stream=False, include_usage=False, ignored=(), pictures=((found.image_url, PICTURE),))


def refused(error: SensoriumError, url: str) -> SensoriumError:
    """The error as a fault of the input, where it is one; `url` is where its picture is."""
    return fal_pictures.fault(error, PICTURE, url, BYTE_CAP) or blamed(error, PARAMETERS)


def whole(call: ChatCall, text: str, finished: Finished) -> bytes:
    """The output."""
    return msgspec.json.encode(output(text, asdict(finished.usage), timings(call, finished)))


class Growth:
    """The frames of an answer that is told as it grows: its text so far after each piece, at the end the whole output."""

    def __init__(self, call: ChatCall) -> None:
        self._call, self._text = call, ""

    def begin(self) -> bytes:
        """There is nothing to say before the first piece."""
        return b""

    def text(self, delta: Delta) -> bytes:
        """The text so far."""
        self._text += delta.text
        return sse.event(msgspec.json.encode({"output": self._text}))

    def end(self, finished: Finished) -> bytes:
        """The whole output."""
        return sse.event(whole(self._call, self._text, finished))
