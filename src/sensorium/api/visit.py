"""A call at one of the hub's doors: the exchange, who renders its errors, and relaying a reply as it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensorium.errors import SensoriumError, UpstreamRefused
from sensorium.exchange import Exchange, Receive, Render, Send, error_headers
from sensorium.routing.byline import CHANGED as CHANGED
from sensorium.routing.byline import MODEL as MODEL
from sensorium.routing.byline import PASSED_OVER as PASSED_OVER
from sensorium.routing.byline import PLACE as PLACE
from sensorium.routing.byline import SOURCE as SOURCE
from sensorium.routing.byline import origin as origin
from sensorium.routing.call import Reply
from sensorium.routing.origin import Origin, from_headers
from sensorium.wire import anthropic, fal_errors, sse


class Visit(Exchange):
    """An exchange of the hub. `render` writes errors in the door's dialect, `params` come from the path, `query` is what follows its `?`,
    `raw_path` the path as it was sent, `caller` is the name of the principal, `origin` what is recorded of this request, `shared` are
    headers of any answer, `max_body` is in bytes."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send, render: Render, max_body: int) -> None:
        super().__init__(scope, receive, send)
        self.params: tuple[str, ...] = ()
        self.query: bytes = scope.get("query_string", b"")
        self.raw_path: bytes = scope.get("raw_path") or b""
        self.caller = ""
        self.shared: Mapping[str, str] = {}
        self.origin = Origin(self.request_id, from_headers(self.header))
        self._max_body = max_body
        self.speaks(render)

    def speaks(self, render: Render) -> None:
        """Answer in this dialect from here on."""
        self._render = render
        self._anthropic, self._fal = render is anthropic.error, render is fal_errors.error

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer that grows. Anthropic's and fal's clients look for the call's id under names of their own."""
        if self._anthropic:
            headers = {**headers, "request-id": self.request_id}
        elif self._fal:
            headers = {fal_errors.REQUEST_ID: self.request_id, **headers}
        await super().begin(status, {**headers, **self.shared} if self.shared else headers)

    async def whole_body(self) -> bytes:
        """The body under this hub's cap. Raises as `Exchange.body` does."""
        return await self.body(self._max_body, "send a smaller picture; the cap is server.max_body_bytes")

    async def answer(self, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        """A whole answer made here; `headers` may name another source than the hub."""
        await self.respond(status, body, {SOURCE: "hub", **(headers or {})})

    async def fail(self, error: SensoriumError) -> None:
        """The error in this door's dialect."""
        await self.drain()
        source = {**error.headers, SOURCE: error.source} if isinstance(error, UpstreamRefused) else {}
        told, status = source | error_headers(error), error.status
        if self._fal:
            told, status = told | fal_errors.headers(error), fal_errors.status(error)
        await self.answer(self._render(error, self.request_id), told, status)

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
                held = rest + chunk
                end = sse.whole(held)
                if end:
                    await self.send(held[:end])
                rest = held[end:]
            if rest:
                await self.send(rest)
        except SensoriumError as error:
            await self.send(sse.event(self._render(error, self.request_id), "error" if self._anthropic else ""))
