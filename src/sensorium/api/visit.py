"""A call at one of the hub's doors: the exchange, who renders its errors, and relaying a reply as it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensorium.errors import SensoriumError, UpstreamRefused
from sensorium.exchange import Exchange, Receive, Render, Send, error_headers
from sensorium.routing.call import Reply
from sensorium.wire import sse

SOURCE, CHANGED = "x-sensorium-source", "x-sensorium-changed"
CHANGED_MOST = 2000  # characters
FRAME_ENDS = (b"\n\n", b"\r\n\r\n")


class Visit(Exchange):
    """An exchange of the hub. `render` writes errors in the door's dialect, `params` come from the path, `query` is what follows its `?`,
    `raw_path` the path as it was sent, `caller` is the name of the principal, `max_body` is in bytes."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send, render: Render, max_body: int) -> None:
        super().__init__(scope, receive, send)
        self.params: tuple[str, ...] = ()
        self.query: bytes = scope.get("query_string", b"")
        self.raw_path: bytes = scope.get("raw_path") or b""
        self.caller = ""
        self._render = render
        self._max_body = max_body

    async def whole_body(self) -> bytes:
        """The body under this hub's cap. Raises as `Exchange.body` does."""
        return await self.body(self._max_body)

    async def answer(self, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        """A whole answer made here; `headers` may name another source than the hub."""
        await self.respond(status, body, {SOURCE: "hub", **(headers or {})})

    async def fail(self, error: SensoriumError) -> None:
        """The error in this door's dialect."""
        await self.drain()
        source = {SOURCE: error.source} if isinstance(error, UpstreamRefused) else {}
        await self.answer(self._render(error, self.request_id), source | error_headers(error), error.status)

    async def relay(self, reply: Reply, headers: Mapping[str, str] | None = None) -> None:
        """Send a reply on, byte for byte as it arrives. It is closed in any case.

        When it breaks off after the first byte, an event stream gets an error event; any other body is cut visibly short.
        """
        try:
            await self.begin(reply.status, {**reply.headers, **origin(reply), **(headers or {})})
            if reply.headers.get("content-type", "").startswith("text/event-stream"):
                await self._relay_events(reply)
            else:
                async for chunk in reply.chunks:
                    await self.send(chunk)
            await self.end()
        finally:
            await reply.close()

    async def _relay_events(self, reply: Reply) -> None:
        # An unfinished frame is held back, so that an error event never lands inside it.
        rest = b""
        try:
            async for chunk in reply.chunks:
                rest += chunk
                end = max(rest.rfind(mark) + len(mark) if mark in rest else 0 for mark in FRAME_ENDS)
                if end:
                    await self.send(rest[:end])
                    rest = rest[end:]
            if rest:
                await self.send(rest)
        except SensoriumError as error:
            await self.send(sse.event(self._render(error, self.request_id)))


def origin(reply: Reply) -> dict[str, str]:
    """The headers that say who really answered, and what that one said about its answer."""
    said = {name: text for name, text in reply.headers.items() if name.startswith("x-sensorium-")}
    said |= {SOURCE: reply.route.provider.name, "x-sensorium-model": reply.route.answers}
    if reply.route.open:
        del said["x-sensorium-model"]  # nobody named one
    if reply.route.stand_in:
        said["x-sensorium-stand-in"] = reply.route.id
    if reply.changes:
        said[CHANGED] = _line("; ".join(reply.changes))
    return said


def _line(text: str) -> str:
    """A caller's words among ours as one header line."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text[:CHANGED_MOST])
