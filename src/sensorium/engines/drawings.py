"""Wishes to hosted drawing models, whatever the dialect they came in: admission, the model on its device, and the events of the drawing.

It knows no HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial

from sensorium.engines import genai
from sensorium.engines.drawing import Drawer, Step
from sensorium.engines.hosted import Hosted


class Drawings:
    """`deadline_s` counts from admission: waiting for the model, for the device, and work."""

    def __init__(self, deadline_s: float | None = None) -> None:
        self._deadline_s = deadline_s

    @asynccontextmanager
    async def to(self, hosted: Hosted, call: genai.DrawCall) -> AsyncIterator[tuple[dict[str, str], AsyncIterator[Step | bytes]]]:
        """What headers say of the drawing, and its events: Steps, then the body of the answer. Leaving early ends the work.

        Raises Busy, Unavailable and DeadlineExceeded, and what the model's check raises.
        """
        with hosted.lane.admitted(self._deadline_s) as turn:
            async with AsyncExitStack() as stack:
                async with turn.in_time():
                    model: Drawer = await stack.enter_async_context(hosted.in_use())
                said = genai.headers(model.check(call.wish))
                yield said, await stack.enter_async_context(aclosing(turn.stream(partial(genai.events, call, model))))
