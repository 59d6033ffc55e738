"""The hub as an ASGI app: find the handler, check the caller, run it, render what it raises, stop when the caller hangs up."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.api.auth import Principal
from sensorium.api.cors import Cors
from sensorium.api.terms import terms
from sensorium.api.visit import SOURCE, Visit
from sensorium.errors import Cancelled, MethodNotAllowed, NotFound, SensoriumError, Unavailable
from sensorium.exchange import Receive, Render, Send
from sensorium.routing.origin import ORIGIN
from sensorium.routing.terms import under
from sensorium.wire.filelinks import without_rights

log = logging.getLogger("sensorium.hub")
Handler = Callable[[Visit], Coroutine[Any, Any, None]]
Sockets = Callable[[Mapping[str, Any], Receive, Send], Awaitable[None]]
SLASHED = "/fal/"  # below it a path may end in a slash: some of fal's clients write one


@dataclass(frozen=True, slots=True)
class Entry:
    """One route. A path that ends in `/*` takes everything below it, as the handler's first path parameter.

    `public` routes need no token.
    """

    method: str
    path: str
    handler: Handler
    render: Render
    public: bool = False


class Router:
    """Dispatches requests to entries. `render` answers where no entry matches: it gets the path and gives a dialect.

    `max_body`, in bytes, may change while it serves; `entries` are all routes, for whoever examines them. `cors` says which pages may
    call from a browser, without it none; `sockets` is handed every websocket, without it they are refused.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        auth: Callable[[Visit], Principal],
        render: Callable[[str], Render],
        max_body: int,
        *,
        cors: Cors | None = None,
        sockets: Sockets | None = None,
    ) -> None:
        self.entries = tuple(entries)
        self._exact: dict[str, list[Entry]] = {}
        below: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.path.endswith("/*"):
                below.setdefault(entry.path[:-1], []).append(entry)
            else:
                self._exact.setdefault(entry.path, []).append(entry)
        self._below = sorted(below.items(), key=lambda one: -len(one[0]))  # the narrowest first
        self._auth = auth
        self._render = render
        self.max_body = max_body
        self._cors, self._sockets = cors, sockets

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await (self._sockets or _refused)(scope, receive, send)
        elif scope["type"] == "http":
            visit = Visit(scope, receive, send, self._render(scope["path"]), self.max_body)
            began = time.perf_counter()
            if self._cors is not None:
                visit.shared = self._cors.headers(visit.header("origin"))
            await self._recorded(visit)
            took = 1000 * (time.perf_counter() - began)
            log.info("%s %r %s %.1f ms %s", visit.method, without_rights(visit.path)[:200], visit.status, took, visit.request_id)

    async def _recorded(self, visit: Visit) -> None:
        """Answer, with the calls that this makes recorded as one."""
        within = ORIGIN.set(visit.origin)
        try:
            await self._answer(visit)
        finally:
            ORIGIN.reset(within)
            visit.origin.end(visit.status, visit.received, visit.sent)

    async def _answer(self, visit: Visit) -> None:
        try:
            await self._guarded(visit)
        except Cancelled:
            pass
        except asyncio.CancelledError:
            # The hub stops, and the time it gives to calls in flight is over.
            if not visit.status:
                await visit.fail(Unavailable("the hub is stopping; try again", retry_after=5))
            raise
        except SensoriumError as error:
            if visit.status:
                # Left unfinished: the web server closes the connection, and so the caller sees that there is more.
                log.warning("call %s was cut short: %s", visit.request_id, error.code)
            else:
                await visit.fail(error)
        except Exception as error:
            # The outermost line: whatever was not foreseen must not show the caller how we are built, nor the log what was sent.
            log.error("call %s failed: %s", visit.request_id, _place(error))
            if not visit.status:
                await visit.fail(SensoriumError(f"the hub failed on this call; its log names it {visit.request_id}"))

    async def _guarded(self, visit: Visit) -> None:
        asked = self._cors.preflight(visit.method, visit.header) if self._cors is not None else None
        if asked is not None:  # browsers ask without credentials
            await visit.begin(204, {**asked, SOURCE: "hub"})
            await visit.end()
            return
        entry = self._find(visit)
        visit.origin.door = entry.path
        if entry.public:
            await visit.attended(entry.handler(visit))
            return
        principal = self._auth(visit)
        visit.caller = visit.origin.caller = principal.name
        with under(terms(visit, principal)):
            await visit.attended(entry.handler(visit))

    def _find(self, visit: Visit) -> Entry:
        exact = visit.path.rstrip("/") if visit.path.startswith(SLASHED) else visit.path
        found = self._exact.get(visit.path) or self._exact.get(exact, [])
        if not found:
            prefix, found = next(((prefix, below) for prefix, below in self._below if visit.path.startswith(prefix)), ("", []))
            if found:
                visit.params = (visit.path[len(prefix) :],)
        if not found:
            raise NotFound(f"there is no {visit.path[:200]} here", hint="GET /v1/models lists the models; the docs list the routes")
        visit.speaks(found[0].render)
        method = "GET" if visit.method == "HEAD" else visit.method
        for entry in found:
            if entry.method == method:
                return entry
        allowed = [entry.method for entry in found]
        raise MethodNotAllowed(f"{visit.method} is not for {visit.path[:200]}; use {' or '.join(allowed)}", allow=", ".join(allowed))


async def _refused(_scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """Nobody here speaks over websockets: the handshake is answered 403."""
    await receive()
    await send({"type": "websocket.close", "code": 1000})


def _place(error: BaseException) -> str:
    """Where an error came from, innermost first. Its words are left out: they may quote a prompt or a key."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return f"{type(error).__name__} in " + ", from ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
