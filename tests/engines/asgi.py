"""Calls an ASGI app in memory, chunk by chunk, and can hang up in the middle. As with real servers, a finished answer is a disconnect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

PATIENCE = 10.0


class Call:
    """One call under way. Status and headers are there after `begun`, the body comes with `chunk` or `rest`."""

    def __init__(self, app: Any, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [(name.lower().encode(), text.encode("latin-1")) for name, text in (headers or {}).items()]
        scope = {"type": "http", "method": method, "path": path, "headers": lines, "query_string": b"", "client": ("127.0.0.1", 1)}
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": data, "more_body": False})
        self._outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.status, self.headers = 0, dict[str, str]()
        self.task = asyncio.create_task(app(scope, self._incoming.get, self._send))

    async def begun(self) -> Call:
        message = await self._next()
        assert message["type"] == "http.response.start"
        self.status = message["status"]
        self.headers = {name.decode(): text.decode("latin-1") for name, text in message["headers"]}
        return self

    async def chunk(self) -> bytes | None:
        """The next piece of the body, None at its end."""
        message = await self._next()
        assert message["type"] == "http.response.body"
        return message["body"] if message.get("more_body") or message["body"] else None

    async def rest(self) -> bytes:
        """The remaining body."""
        await asyncio.wait_for(self.task, PATIENCE)
        data = b""
        while not self._outgoing.empty():
            data += self._outgoing.get_nowait()["body"]
        return data

    async def hang_up(self) -> None:
        """Leave, and wait until the app has noticed."""
        self._incoming.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(self.task, PATIENCE)

    async def _send(self, message: dict[str, Any]) -> None:
        await self._outgoing.put(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._incoming.put_nowait({"type": "http.disconnect"})
            await asyncio.sleep(0)

    async def _next(self) -> dict[str, Any]:
        getting = asyncio.ensure_future(self._outgoing.get())
        await asyncio.wait({getting, self.task}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if self.task.done() and not getting.done():
            self.task.result()
        return await asyncio.wait_for(getting, 1)


async def ask(app: Any, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[Call, bytes]:
    """A whole call: its head and its body."""
    call = await Call(app, method, path, body, headers).begun()
    return call, await call.rest()
