"""What stands around a hub in these tests, on loopback: a model that is asked through it, pages, pictures, a receiver of webhooks."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

PATIENCE_S = 30.0
ANSWER = ("The box", " is red.")
WHOLE = "".join(ANSWER)
WAIT, FAIL, SIZE = "wait ", "fail", "How large is it?"


def png(width: int = 8, height: int = 6) -> bytes:
    """A red picture."""
    with io.BytesIO() as buffer:
        Image.new("RGB", (width, height), "red").save(buffer, "png")
        return buffer.getvalue()


class Site:
    """The ASGI app. Its model answers WHOLE in two pieces; `wait NAME` holds the second one back until the gate NAME is opened, `fail`
    is answered 500, SIZE with the size of the picture. `prompts` are those asked, in their order; `pages` are served as they are."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.pages: dict[str, tuple[str, bytes]] = {"/box.png": ("image/png", png())}
        self.posted: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._events: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        path: str = scope["path"]
        verb, _, name = path[1:].partition("/")
        if path == "/v1/chat/completions":
            await self._chat(json.loads(body), receive, send)
        elif path in self.pages:
            media, page = self.pages[path]
            await _whole(send, 200, page, media)
        elif verb == "gate":
            self._events[f"gate {name}"].set()
            await _json(send, 200, {})
        elif verb in ("arrived", "left"):
            await self._told(f"{verb} {name}", lambda: {"prompts": self.prompts}, send)
        elif verb == "hook" and scope["method"] == "POST":
            headers = {key.decode(): text.decode() for key, text in scope["headers"]}
            self.posted[name].append({"headers": headers, "body": body.decode()})
            self._events[f"hook {name}"].set()
            await _json(send, 200, {})
        elif verb == "hook":
            await self._told(f"hook {name}", lambda: self.posted[name][-1], send)
        else:
            await _json(send, 404, {"error": {"message": f"no {path} here"}})

    def _size(self, url: str) -> str:
        """The size of a picture: a data: URL, or a page of this site."""
        data = self.pages[urlsplit(url).path][1] if url.startswith("http") else base64.b64decode(url.partition(";base64,")[2])
        with Image.open(io.BytesIO(data)) as picture:
            return f"{picture.width} x {picture.height}"

    async def _told(self, event: str, fact: Callable[[], Any], send: Any) -> None:
        """Answer once the event is there."""
        try:
            await asyncio.wait_for(self._events[event].wait(), PATIENCE_S)
        except TimeoutError:
            await _json(send, 504, {"error": {"message": f"{event} did not come"}})
            return
        await _json(send, 200, fact())

    async def _chat(self, asked: dict[str, Any], receive: Any, send: Any) -> None:
        prompt, image = _question(asked)
        self.prompts.append(prompt)
        if prompt == FAIL:
            await _json(send, 500, {"error": {"message": "it failed on purpose", "code": "broken"}})
            return
        pieces = (self._size(image),) if prompt == SIZE else ANSWER
        gate = prompt.removeprefix(WAIT) if prompt.startswith(WAIT) else ""
        streams = bool(asked.get("stream"))
        if streams:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
            await send(_frame({"choices": [{"index": 0, "delta": {"role": "assistant", "content": pieces[0]}}]}))
        if gate and not await self._opened(gate, receive):
            return
        usage = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
        if not streams:
            message = {"role": "assistant", "content": "".join(pieces)}
            reply = {"id": "c", "object": "chat.completion", "model": asked["model"], "usage": usage}
            await _json(send, 200, {**reply, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
            return
        for piece in pieces[1:]:
            await send(_frame({"choices": [{"index": 0, "delta": {"content": piece}}]}))
        await send(_frame({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _opened(self, gate: str, receive: Any) -> bool:
        """Wait at a gate; False when the caller left before it was opened."""
        self._events[f"arrived {gate}"].set()
        waiting, leaving = asyncio.ensure_future(self._events[f"gate {gate}"].wait()), asyncio.ensure_future(receive())
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
        opened = waiting.done()
        if not opened:
            self._events[f"left {gate}"].set()
        for task in (waiting, leaving):
            task.cancel()
        await asyncio.gather(waiting, leaving, return_exceptions=True)
        return opened


def _question(asked: dict[str, Any]) -> tuple[str, str]:
    """The prompt and the picture's URL, "" without one, of a call's last message."""
    content = asked["messages"][-1]["content"]
    if isinstance(content, str):
        return content, ""
    texts = [part["text"] for part in content if part["type"] == "text"]
    images = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return texts[-1], images[-1] if images else ""


def _frame(chunk: dict[str, Any]) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"data: " + json.dumps(chunk).encode() + b"\n\n", "more_body": True}


async def _json(send: Any, status: int, told: Any) -> None:
    await _whole(send, status, json.dumps(told).encode(), "application/json")


async def _whole(send: Any, status: int, body: bytes, media: str) -> None:
    headers = [(b"content-type", media.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
