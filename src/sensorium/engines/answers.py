"""Questions to hosted models, whatever the dialect they came in: admission, pictures, prompt, and the answer's events as they are made.

It knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any

from PIL import Image

from sensorium.engines import chat, pictures
from sensorium.engines.chat import ChatCall
from sensorium.engines.diffusion_vlm.answering import Delta, Finished
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.hosted import Hosted
from sensorium.wire import decoding

Events = AsyncIterator[Delta | Finished]


class Answers:
    """`allow` is the operator's list of private addresses that pictures may be at; `deadline_s` counts from admission: fetching
    pictures, waiting and work."""

    def __init__(self, allow: Collection[str] = (), deadline_s: float | None = None) -> None:
        self._allow, self._deadline_s = allow, deadline_s
        # One decoded picture at a time, however many callers there are: each may take a hundred megabytes.
        self._threads = ThreadPoolExecutor(1, "pictures")

    @asynccontextmanager
    async def to(self, hosted: Hosted, call: ChatCall) -> AsyncIterator[tuple[ChatCall, Events]]:
        """The call with its pictures loaded, and the events of its answer: Deltas, then one Finished. Leaving early ends the work.

        Raises Busy, Unavailable and DeadlineExceeded, and what pictures and prompts raise.
        """
        with hosted.lane.admitted(self._deadline_s) as turn:
            async with AsyncExitStack() as stack:
                async with turn.in_time():
                    model: DiffusionVLM = await stack.enter_async_context(hosted.in_use())
                    call = await chat.with_pictures(call, self._loader(model), decoding.PIXEL_CAP)
                    loop = asyncio.get_running_loop()
                    job = await loop.run_in_executor(self._threads, partial(model.prepare, call.ask))
                yield call, await stack.enter_async_context(aclosing(turn.stream(model.work(job))))

    def _loader(self, model: DiffusionVLM) -> chat.Load:
        """Loads pictures as this model sees them, with the pixels that were decoded for it."""

        def see(image: Image.Image) -> tuple[Any, int]:
            return model.see(image), image.width * image.height

        async def load(url: str, where: str, pixels: int) -> tuple[Any, int]:
            enough, threads = model.enough, self._threads
            return await pictures.load(url, where, self._allow, see=see, pixel_cap=pixels, enough=enough, threads=threads)

        return load


async def collected(events: Events) -> tuple[str, Finished]:
    """The whole text, and the end."""
    pieces = [event async for event in events]
    finished = pieces.pop()
    assert isinstance(finished, Finished)
    return "".join(piece.text for piece in pieces if isinstance(piece, Delta)), finished
