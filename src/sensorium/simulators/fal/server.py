"""The simulated service as one ASGI app: the hosts of the queue, of direct calls and of files, by path prefix or Host header.

It does not know how it is served, and never calls out.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from sensorium.errors import Cancelled, SensoriumError
from sensorium.exchange import Exchange, Receive, Send
from sensorium.simulators.fal import control
from sensorium.simulators.fal.auth import Auth
from sensorium.simulators.fal.control import Seen
from sensorium.simulators.fal.faults import Faults
from sensorium.simulators.fal.files import Files
from sensorium.simulators.fal.options import Options
from sensorium.simulators.fal.queue import Ask, QueueHost
from sensorium.simulators.fal.replies import said
from sensorium.simulators.replies import Refused, Reply, json_reply

QUEUE, RUN, FILES, CONTROL = "queue.fal.run", "fal.run", "v3.fal.media", "simulator"
HOSTS: Final = (QUEUE, RUN, FILES, CONTROL)
READ_CAP = 128 * 1024 * 1024
REMEMBERED = 500
Sleep = Callable[[float], Awaitable[None]]
log = logging.getLogger("sensorium.simulator")


class Simulator:
    """The ASGI app. `now` is in seconds since the epoch. `seen` holds the latest calls."""

    def __init__(self, options: Options | None = None, now: Callable[[], float] = time.time, sleep: Sleep = asyncio.sleep) -> None:
        options = options or Options()
        self.seen: deque[Seen] = deque(maxlen=REMEMBERED)
        self.faults = Faults(options.faults, options.seed)
        self._files = Files(self.faults)
        self._queue = QueueHost(options, Auth(options.keys), self.faults, now, sleep)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        try:
            body = await exchange.body(READ_CAP)
            await exchange.attended(self._serve(exchange, scope, body))
        except Cancelled:
            pass  # nobody is left to be answered
        except SensoriumError as error:
            await self._deliver(exchange, json_reply({"detail": error.message}, error.status))
        except Exception:  # outermost: a fault of the simulator's own must not look like one that was ordered
            log.exception("%s %s failed", exchange.method, exchange.path[:200])
            if not exchange.status:
                await self._deliver(exchange, said(500, "the simulator itself failed; its log has the details"))

    async def _serve(self, exchange: Exchange, scope: Mapping[str, Any], body: bytes) -> None:
        host, path = located(exchange.path, exchange.header("host"))
        if host == CONTROL:
            await self._deliver(exchange, control.answer(exchange.method, path, body, self.faults, self.seen))
            return
        ask = _ask(exchange, scope, path, body, self._files)
        try:
            if host == QUEUE and ask.streaming:
                self._note(exchange, host, path, 200, body)
                await self._stream(exchange, ask)
                return
            reply = self._files.answer(exchange.method, path) if host == FILES else await self._called(host, ask)
        except Refused as refused:
            reply = refused.reply
        self._note(exchange, host, path, reply.status, body)
        await self._deliver(exchange, reply)

    async def _called(self, host: str, ask: Ask) -> Reply:
        return self._queue.answer(ask) if host == QUEUE else await self._queue.direct(ask)

    async def _stream(self, exchange: Exchange, ask: Ask) -> None:
        events = self._queue.events(ask)
        await exchange.begin(200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"})
        async for event in events:
            await exchange.send(event)
        await exchange.end()

    def _note(self, exchange: Exchange, host: str, path: str, status: int, body: bytes) -> None:
        names = ("authorization", "x-fal-request-timeout", "x-fal-queue-priority", "user-agent")
        headers = {name: exchange.header(name) for name in names if exchange.header(name)}
        try:
            held = msgspec.json.decode(body) if body else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            held = None
        self.seen.append(Seen(host, exchange.method, path, status, exchange.header("host"), headers, held))

    async def _deliver(self, exchange: Exchange, reply: Reply) -> None:
        named = {"x-fal-request-id": str(uuid.uuid4()), **reply.headers}
        await exchange.respond(reply.status, reply.body, named)


def located(path: str, host: str) -> tuple[str, str]:
    """The simulated host that a request is for, and the path there."""
    first, _, rest = path.lstrip("/").partition("/")
    if first in HOSTS:
        return first, f"/{rest}"
    name = host.partition(":")[0].lower()
    return (name if name in HOSTS else QUEUE), path


def _ask(exchange: Exchange, scope: Mapping[str, Any], path: str, body: bytes, files: Files) -> Ask:
    root = f"{scope['scheme']}://{exchange.header('host')}"
    prefix = exchange.path.lstrip("/").partition("/")[0]
    base = f"{root}/{prefix}" if prefix in HOSTS else root
    media = f"{root}/{FILES}" if prefix in HOSTS else f"{scope['scheme']}://{FILES}"
    query = scope["query_string"].decode("latin-1")
    return Ask(exchange.method, path, query, exchange.header, body, base, lambda data, kind: files.keep(data, kind, media))
