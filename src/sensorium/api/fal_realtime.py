"""fal's realtime door: a websocket on which inputs come and results go, several to a connection, in order.

Inputs that come while one is worked on wait, at most `max_buffering` of them. A caller that gave this number wants fresh results: beyond it
the oldest waiting one is dropped, as fal does. A caller that gave none loses nothing: beyond `WAITING` the hub stops reading.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from sensorium.api.auth import Principal
from sensorium.api.base_url import base_url
from sensorium.api.fal_requests import Apps, Target, target
from sensorium.api.fal_tokens import QUERY, Tokens
from sensorium.api.terms import terms
from sensorium.api.visit import SOURCE, Visit
from sensorium.apps.app import Task
from sensorium.errors import BadRequest, BodyTooLarge, Busy, Cancelled, NotFound, SensoriumError
from sensorium.exchange import Receive, Send
from sensorium.routing.origin import ORIGIN, Origin
from sensorium.routing.terms import under
from sensorium.wire import fal_errors, fal_realtime, fal_tokens
from sensorium.wire.whole import whole

log = logging.getLogger("sensorium.hub")
PREFIX: Final = "/fal/run/"
SUFFIX: Final = "/realtime"
WAITING: Final = fal_realtime.BUFFERING[-1]
IDLE_S: Final = 300.0
SEND_S: Final = 60.0  # a peer that takes nothing for so long is gone
AT_MOST, OF_ONE = 200, 150  # connections; one caller leaves room for others
REASON_BYTES: Final = 123  # what fits into a close frame
CLEAN, REFUSED, BROKEN, TRY_LATER = 1000, 1008, 1011, 1013  # close codes of RFC 6455 and its registry


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one connection: bytes of a message, and of all that wait together; seconds without a message before it is closed. Of all
    connections: how many there are at a time, and how many of one caller."""

    message: int
    idle_s: float = IDLE_S
    at_most: int = AT_MOST
    of_one: int = OF_ONE


@dataclass(frozen=True, slots=True)
class Opened:
    """What a connection is for: the caller, its app, and how many inputs may wait (None: it did not say)."""

    visit: Visit
    principal: Principal
    there: Target
    base_url: str
    buffering: int | None


class RealtimeDoor:
    """An ASGI app for websockets, `GET /fal/run/{app}[/realtime]?fal_jwt_token=&max_buffering=`; it refuses any other path with 404.

    `public_url` is how callers reach the hub; without it links follow the handshake.
    """

    def __init__(
        self, apps: Apps, authenticate: Callable[[Visit], Principal], tokens: Tokens, limits: Limits, public_url: str | None = None
    ) -> None:
        self._apps, self._authenticate, self._tokens = apps, authenticate, tokens
        self._limits, self._public_url = limits, public_url
        self._open = 0
        self._open_of: Counter[str] = Counter()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        http = {**scope, "method": "GET", "scheme": "https" if scope["scheme"] == "wss" else "http"}
        visit = Visit(http, receive, send, fal_errors.error, 0)
        if not visit.path.startswith(PREFIX):
            await _not_here(visit, send)
            return
        await receive()  # the handshake
        line = Line(receive, send)
        self._open += 1
        try:
            await line.accept({SOURCE: "hub", "x-fal-request-id": visit.request_id, "x-request-id": visit.request_id})
            await self._served(visit, line)
        except Cancelled:
            pass  # the peer left
        except Exception as error:
            # outermost of a connection, as the router is of a call: what was not foreseen shows neither how we are built nor what was sent
            log.error("realtime connection %s failed: %s", visit.request_id, _place(error))
            with suppress(Cancelled):
                await line.close(BROKEN, "internal error")
        finally:
            self._open -= 1
            log.info("WS %r by %s, %s", visit.path[:200], visit.caller or "nobody", visit.request_id)

    async def _served(self, visit: Visit, line: Line) -> None:
        """The connection from its first message to its last. A refusal is told after the handshake, where browsers see it."""
        try:
            if self._open > self._limits.at_most:
                raise Busy(f"{self._limits.at_most} realtime connections are open; try again later")
            opened = self._opened(visit)
            if self._open_of[visit.caller] >= self._limits.of_one:
                raise Busy(f"{self._limits.of_one} realtime connections of this caller are open; try again later")
        except SensoriumError as error:
            await line.tell(fal_realtime.told(error, visit.request_id))
            await line.close(TRY_LATER if isinstance(error, Busy) else REFUSED, error.message)
            return
        self._open_of[visit.caller] += 1
        try:
            await Conversation(opened, line, self._limits).run()
        finally:
            self._open_of[visit.caller] -= 1

    def _opened(self, visit: Visit) -> Opened:
        """Raises Unauthorized, UnknownApp, BadRequest."""
        asked = parse_qs(visit.query.decode("latin-1"))
        endpoint = visit.path.removeprefix(PREFIX).rstrip("/").removesuffix(SUFFIX)
        token = asked.get(QUERY, [""])[-1]
        named = self._tokens.principal_of(token, fal_tokens.alias(endpoint)) if token else None
        principal = self._authenticate(visit) if named is None else Principal(named)
        visit.caller = principal.name
        terms(visit, principal)  # a header that cannot be read is told now
        there = target(self._apps, visit, endpoint)
        there.app.lane(there.path)
        return Opened(visit, principal, there, base_url(visit, self._public_url), _buffering(asked))


class Conversation:
    """One connection: a reader that fills the inbox, and a worker that empties it."""

    def __init__(self, opened: Opened, line: Line, limits: Limits) -> None:
        self._opened, self._line, self._limits = opened, line, limits
        self._inbox = Inbox(opened.buffering or WAITING, limits.message, dropping=opened.buffering is not None)

    async def run(self) -> None:
        """Until the peer leaves, which ends the work at hand, or nothing comes for long."""
        reading, working = asyncio.ensure_future(self._read()), asyncio.ensure_future(self._work())
        try:
            await asyncio.wait({reading, working}, return_when=asyncio.FIRST_COMPLETED)
            for done in (working, reading):
                if done.done():
                    done.result()
        finally:
            reading.cancel()
            working.cancel()
            await asyncio.gather(reading, working, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            await self._inbox.put(await self._line.next())

    async def _work(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    frame = await self._inbox.take()
            except TimeoutError:
                await self._line.tell(fal_realtime.idle(self._limits.idle_s))
                await self._line.close(CLEAN, "idle")
                return
            await self._answer(frame)

    async def _answer(self, frame: bytes | str) -> None:
        """One input: its result, or what is wrong with it. The connection goes on in either case."""
        visit = self._opened.visit
        id = str(uuid.uuid4())
        origin = Origin(id, dict(visit.origin.attribution), f"{PREFIX}*", visit.caller)
        within = ORIGIN.set(origin)
        status = sent = 0
        try:
            status, replies = await self._made(frame, id)
            for reply in replies:
                await self._line.tell(reply)
                sent += len(reply)
        finally:
            ORIGIN.reset(within)
            origin.end(status, len(frame), sent)

    async def _made(self, frame: bytes | str, id: str) -> tuple[int, tuple[bytes | str, ...]]:
        """The status that the answer would have over HTTP, and its frames."""
        began = time.perf_counter()
        try:
            if isinstance(frame, str):
                raise BadRequest("a text frame came; inputs are msgpack maps in binary frames")
            if len(frame) > self._limits.message:
                raise BodyTooLarge(f"the message has {len(frame)} bytes; at most {self._limits.message} are read")
            opened = self._opened
            task = Task(id, opened.principal.name, fal_realtime.input_of(frame), opened.there.path, opened.base_url)
            with under(terms(opened.visit, opened.principal)):
                output = await opened.there.app.run(task)
            told = fal_realtime.timings(time.perf_counter() - began, id, {SOURCE: "hub", **(output.headers or {})})
            return 200, (fal_realtime.output(output.body), told)
        except SensoriumError as error:
            return error.status, (fal_realtime.told(error, id),)
        except Exception as error:
            # outermost of one message: its words may quote the input, so only its place is told, and the connection goes on
            log.error("realtime message %s failed: %s", id, _place(error))
            return 500, (fal_realtime.told(SensoriumError(f"the hub failed on this message; its log names it {id}"), id),)


class Inbox:
    """Frames that wait, oldest first: at most `count`, and `size` bytes. Beyond that a `dropping` one lets the oldest go; another makes
    whoever puts wait."""

    def __init__(self, count: int, size: int, *, dropping: bool) -> None:
        self._count, self._size, self._dropping = count, size, dropping
        self._frames: deque[bytes | str] = deque()
        self._held = 0
        self._changed = asyncio.Condition()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._frames)

    async def put(self, frame: bytes | str) -> None:
        """Add the newest."""
        async with self._changed:
            if self._dropping:
                while self._full(frame):
                    self._held -= len(self._frames.popleft())
            else:
                await self._changed.wait_for(lambda: not self._full(frame))
            self._frames.append(frame)
            self._held += len(frame)
            self._changed.notify_all()

    async def take(self) -> bytes | str:
        """The oldest, as soon as there is one."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._frames) > 0)
            frame = self._frames.popleft()
            self._held -= len(frame)
            self._changed.notify_all()
            return frame

    def _full(self, frame: bytes | str) -> bool:
        return len(self._frames) >= self._count or (len(self._frames) > 0 and self._held + len(frame) > self._size)


class Line:
    """The websocket itself. Whatever finds that the peer has left raises Cancelled."""

    def __init__(self, receive: Receive, send: Send, patience_s: float = SEND_S) -> None:
        self._receive, self._send, self._patience_s = receive, send, patience_s

    async def accept(self, headers: Mapping[str, str]) -> None:
        """Answer the handshake."""
        lines = [(name.encode(), text.encode("latin-1")) for name, text in headers.items()]
        await self._bounded(self._send({"type": "websocket.accept", "headers": lines}))

    async def next(self) -> bytes | str:
        """The next frame."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise Cancelled("the caller hung up")
        data: bytes | str | None = message.get("bytes")
        return message["text"] if data is None else data

    async def tell(self, frame: bytes | str) -> None:
        """Send a frame; text as text."""
        kind = "text" if isinstance(frame, str) else "bytes"
        await self._bounded(self._send({"type": "websocket.send", kind: frame}))

    async def close(self, code: int, reason: str) -> None:
        """End it from this side. Of an unknown caller JavaScript shows nothing but the reason."""
        shown = reason.encode()[:REASON_BYTES].decode("utf-8", "ignore")
        await self._bounded(self._send({"type": "websocket.close", "code": code, "reason": shown}))

    async def _bounded(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await sending
        except (OSError, RuntimeError, TimeoutError):  # how a web server tells that nobody is there, or that the peer broke the protocol
            raise Cancelled("the caller hung up") from None


def _buffering(asked: Mapping[str, list[str]]) -> int | None:
    given = asked.get("max_buffering", [""])[-1]
    if not given:
        return None
    first, last = fal_realtime.BUFFERING[0], fal_realtime.BUFFERING[-1]
    found = whole(given, first, last)
    if found is None:
        raise BadRequest(f"max_buffering is {given[:20]!r}; it takes a whole number from {first} to {last}", param="max_buffering")
    return found


def _place(error: BaseException) -> str:
    """Where an error came from."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno} {frame.name}"


async def _not_here(visit: Visit, send: Send) -> None:
    """Refuse the handshake itself, as any other unknown path."""
    body = fal_errors.error(NotFound(f"there is no websocket at {visit.path[:200]}"), visit.request_id)
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (SOURCE.encode(), b"hub")]
    await send({"type": "websocket.http.response.start", "status": 404, "headers": head})
    await send({"type": "websocket.http.response.body", "body": body})
