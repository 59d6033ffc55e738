"""A small hosted provider for tests: speaks OpenAI chat, images and genai, and misbehaves when the model's name says so.

Models: `good` answers; `slow` streams one frame per `step.set()`; `cut` breaks off inside its second frame;
`refuse-<status>` answers that status; `odd` answers 200 without a picture,
`filtered` with one that the content filter blackened.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from typing import Any

FINISH = {"filtered": "CONTENT_FILTERED"}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 600).decode()


class Provider:
    """The ASGI app. `seen` holds (path, headers, body) of each call, `step` paces `slow`, `closed` is set when a caller left."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.step = threading.Semaphore(0)
        self.closed = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): text.decode() for name, text in scope["headers"]}
        self.seen.append((scope["path"], headers, body))
        model = json.loads(body).get("model") or scope["path"].split("/")[-1]
        if model.startswith("refuse-"):
            await self._answer(send, int(model.removeprefix("refuse-")), {"error": {"message": "refused on purpose"}})
        elif json.loads(body).get("stream"):
            await self._stream(model, receive, send)
        elif "genai" in scope["path"]:
            await self._answer(
                send,
                200,
                {"artifacts": [] if model == "odd" else [{"base64": PNG, "finishReason": FINISH.get(model, "SUCCESS"), "seed": 7}]},
            )
        elif scope["path"].endswith("images/generations"):
            await self._answer(send, 200, {"created": 1, "data": [{"b64_json": PNG}]})
        else:
            await self._answer(send, 200, {"model": model, "choices": [{"message": {"role": "assistant", "content": "ok"}}]})

    async def _answer(self, send: Any, status: int, reply: Any) -> None:
        body = json.dumps(reply).encode()
        headers = [(b"content-type", b"application/json"), (b"x-request-id", b"theirs"), (b"retry-after", b"7"), (b"set-cookie", b"a=b")]
        headers += [(b"x-ratelimit-remaining", b"3"), (b"ratelimit-policy", b"40;w=60"), (b"connection", b"keep-alive")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, model: str, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        gone = asyncio.ensure_future(receive())
        for number in range(3):
            while model == "slow" and not self.step.acquire(blocking=False):
                await asyncio.sleep(0.002)
                if gone.done():
                    self.closed.set()
                    return
            await send({"type": "http.response.body", "body": b'data: {"n": %d}\n\n' % number, "more_body": True})
            if model == "cut":
                await send({"type": "http.response.body", "body": b'data: {"n"', "more_body": True})
                raise ConnectionAbortedError("cut on purpose")
        gone.cancel()
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
