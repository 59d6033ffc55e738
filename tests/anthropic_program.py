"""A small provider for tests that speaks Anthropic's protocol below /v1/messages and OpenAI's below /v1/chat/completions.

Models: `good` answers; `slow` sends one event per `step.release()`; `cut` breaks off inside its third event; `refuse-<status>`
answers that status; `late` streams an error as its first event, `torn` one in the middle.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

KEY = "sk-ant-theirs"
WORDS = ("The picture ", "shows ", "a red cube.")
MESSAGE = b'{"id": "msg_1",  "type":"message","role":"assistant","model":"claude-9","content":[{"type":"text","text":"\xc3\xa4"}],\
"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":1}}'
COMPLETION = (
    b'{"choices": [{"message": {"content": "\xc3\xa4"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}'
)
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]


def events() -> list[bytes]:
    """A stream of Anthropic's."""
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-9", "content": [], "stop_reason": None}
    told: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**start, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]
    return [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in told]


def chunks() -> list[bytes]:
    """A stream of OpenAI's."""
    told: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in WORDS]
    told += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    told += [{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 7}}]
    return [*(f"data: {json.dumps(one)}\n\n".encode() for one in told), b"data: [DONE]\n\n"]


class Program:
    """The ASGI app. `seen` holds (method, path, query, headers, body) of each call, `closed` is set when a caller left."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes, dict[str, str], bytes]] = []
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
        self.seen.append((scope["method"], scope["path"], scope["query_string"], headers, body))
        asked = json.loads(body or b"{}")
        model = asked.get("model", "")
        if scope["path"].endswith("/messages/count_tokens"):
            await self._answer(send, 200, b'{"input_tokens": 42}')
        elif scope["method"] == "GET":
            good = headers.get("x-api-key") == KEY
            await self._answer(send, 200 if good else 401, b'{"data": []}' if good else json.dumps(error(401)).encode())
        elif model.startswith("refuse-"):
            await self._answer(send, int(model[7:]), json.dumps(error(int(model[7:]))).encode())
        elif asked.get("stream"):
            ours = scope["path"].endswith("/messages")
            await self._stream(model, events() if ours else chunks(), receive, send)
        else:
            await self._answer(send, 200, MESSAGE if scope["path"].endswith("/messages") else COMPLETION)

    async def _answer(self, send: Any, status: int, body: bytes) -> None:
        headers = [(b"content-type", b"application/json"), (b"request-id", b"req_theirs"), (b"anthropic-organization-id", b"org-secret")]
        headers += [(b"retry-after", b"7")] if status >= 400 else [(b"anthropic-ratelimit-requests-remaining", b"9")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, model: str, frames: list[bytes], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        gone = asyncio.ensure_future(receive())
        told = b"event: error\ndata: " + json.dumps(OVERLOADED).encode() + b"\n\n"
        frames = [told] if model == "late" else [*frames[:2], told] if model == "torn" else frames
        for number, frame in enumerate(frames):
            while model == "slow" and not self.step.acquire(blocking=False):
                await asyncio.sleep(0.002)
                if gone.done():
                    self.closed.set()
                    return
            if model == "cut" and number == 2:
                await send({"type": "http.response.body", "body": frame[: len(frame) // 2], "more_body": True})
                raise ConnectionAbortedError("cut on purpose")
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        gone.cancel()
        await send({"type": "http.response.body", "body": b""})


def error(status: int) -> dict[str, Any]:
    """An error body of Anthropic's."""
    kinds = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error", 529: "overloaded_error"}
    told = {"type": kinds.get(status, "api_error"), "message": "refused on purpose"}
    return {"type": "error", "error": told, "request_id": "req_theirs"}
