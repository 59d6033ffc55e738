"""A model behind the hub that keeps a journal: which prompt began when, and how it ended. It works, hangs, refuses or drops as told."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

MODEL = "black-forest-labs/flux.1-schnell"
SMALL, LARGE = 8, 256  # sides of a picture; noise of the large one is no less than 190 KB as PNG


@dataclass(frozen=True, slots=True)
class Act:
    """What a call meets: so many seconds of work, then a status, or a connection that breaks. One that is `held` never ends by itself."""

    work_s: float = 0.0
    status: int = 200
    drops: bool = False
    held: bool = False
    large: bool = False


@dataclass(slots=True)
class Ran:
    """One line of the journal: the prompt, request and attempt that the hub named, and the number of its process. `ended` is None as
    long as it runs, and for ever when its caller left. Times are monotonic, in seconds."""

    prompt: str
    id: str
    attempt: int
    hub: int
    began: float
    ended: float | None = None


@dataclass(slots=True)
class Engine:
    """The ASGI app. `acts` says what the next calls of a prompt meet, in turn, `usual` makes that of all others; `hub` numbers the hub's
    processes."""

    usual: Callable[[], Act] = Act
    acts: dict[str, list[Act]] = field(default_factory=dict)
    journal: list[Ran] = field(default_factory=list)
    hub: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    _latest: dict[str, int] = field(default_factory=dict)

    def runs(self, prompt: str) -> list[Ran]:
        """What the journal says of a prompt."""
        return [ran for ran in list(self.journal) if ran.prompt == prompt]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        asked = json.loads(body)
        said = {name.decode(): text.decode() for name, text in scope["headers"]}
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({gone}, timeout=0.001)
            id, attempt = said["x-sensorium-request"], int(said["x-sensorium-attempt"])
            if gone.done() or attempt < self._latest.get(id, 0):  # nobody is there any more, or a later run has begun
                return
            self._latest[id] = attempt
            planned = self.acts.get(asked["prompt"])
            act = planned.pop(0) if planned else self.usual()
            ran = Ran(asked["prompt"], id, attempt, self.hub, time.monotonic())
            self.journal.append(ran)
            if await self._left_early(act, gone):
                return
        finally:
            gone.cancel()
        ran.ended = time.monotonic()
        if act.drops:  # in the middle of its reply: the web server lets nobody break off before
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            raise ConnectionAbortedError("dropped on purpose")
        reply = _drawn(LARGE if act.large else SMALL) if act.status == 200 else {"error": {"message": "refused on purpose"}}
        await send({"type": "http.response.start", "status": act.status, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(reply).encode()})

    async def _left_early(self, act: Act, gone: asyncio.Future[Any]) -> bool:
        """Work, or wait to be released. Whether the caller left before the end."""
        over = time.monotonic() + act.work_s
        while (act.held and not self.released.is_set()) or time.monotonic() < over:
            await asyncio.wait({gone}, timeout=0.005)
            if gone.done():
                return True
        return False


def _drawn(side: int) -> dict[str, Any]:
    """A picture that no other run draws: two results of one request would differ."""
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(out, "PNG", compress_level=1)
    return {"created": 1, "data": [{"b64_json": base64.b64encode(out.getvalue()).decode()}]}
