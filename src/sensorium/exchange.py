"""One HTTP request and its answer over plain ASGI: a body under a cap, a whole or a growing answer, work that ends when the caller leaves.

Hub and engine both stand on it. Everything that knows the transport is here; it knows no dialect and no model.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, TypeVar

from sensorium.errors import BadRequest, BodyTooLarge, Cancelled, MethodNotAllowed, SensoriumError

T = TypeVar("T")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Render = Callable[[SensoriumError, str], bytes]

JSON = "application/json"
DRAIN_BYTES, DRAIN_S = 8 * 1024 * 1024, 5.0
BODY_IDLE_S = 60.0
PIECE = 256 * 1024  # bytes
_ELSEWHERE = ("cross-site", "same-site")  # of Sec-Fetch-Site, which browsers send: the page is not the server's own
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Exchange:
    """A request and the way to answer it. `status` is 0 until an answer has begun; `peer` is the caller's address, `scheme` http or https.

    `received` and `sent` are the bytes of both bodies so far.
    """

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.scheme: str = scope.get("scheme", "http")
        self.peer: str | None = scope["client"][0] if scope.get("client") else None
        self.status = self.received = self.sent = 0
        self._headers: dict[str, str] = {name.decode("latin-1").lower(): text.decode("latin-1") for name, text in scope["headers"]}
        self._receive, self._send = receive, send
        self._body_read = asyncio.Event()
        given = self.header("x-request-id")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

    def header(self, name: str) -> str:
        """A request header by its lower-case name, "" when missing."""
        return self._headers.get(name, "")

    async def body(self, cap: int, hint: str = "send a smaller picture") -> bytes:
        """The whole body. Raises BodyTooLarge beyond `cap` bytes, with both sizes and `hint`; Cancelled when the caller hangs up before
        its end."""
        got = bytearray()  # one buffer that grows: many small parts would leave the heap in pieces
        async for part in self.parts(cap, hint):
            got += part
        return bytes(got)

    async def parts(self, cap: int, hint: str) -> AsyncGenerator[bytes, None]:
        """The body as it arrives. Raises as `body` does, with `hint` for a body beyond `cap` bytes: before its first byte where the caller
        has told its size, else as soon as it is too long."""
        if self.header("content-encoding") not in ("", "identity"):
            raise BadRequest("compressed bodies are not read here; send the body without content-encoding")
        size = self._declared() or 0
        if size <= cap:
            size = 0
            while size <= cap and not self._body_read.is_set():
                part = await self._next_part()
                size += len(part)
                if size <= cap:
                    yield part
        if size > cap:
            raise BodyTooLarge(f"the body has {size} bytes or more; at most {cap} are read", hint=hint)

    async def drain(self) -> None:
        """Read and drop what is left of a body of moderate size: a client that still sends would see a reset, not the answer."""
        declared = self._declared()
        sends = declared is not None or "transfer-encoding" in self._headers
        if not sends or (declared or 0) > DRAIN_BYTES or self.header("expect"):
            return
        left = DRAIN_BYTES
        with suppress(TimeoutError, Cancelled):
            async with asyncio.timeout(DRAIN_S):
                while not self._body_read.is_set() and left > 0:
                    left -= len(await self._next_part())

    async def attended(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled when the caller hangs up first; then Cancelled is raised.

        The caller is heard from the moment that its whole body has been read.
        """
        doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(self._hung_up())
        try:
            await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            raise Cancelled("the caller hung up")
        finally:
            doing.cancel()
            leaving.cancel()
            await asyncio.gather(doing, leaving, return_exceptions=True)

    async def respond(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer; JSON unless `headers` say otherwise."""
        await self.begin(status, {"content-type": JSON, "content-length": str(len(body)), **(headers or {})})
        if self.method != "HEAD":
            await self.send(body)
        await self.end()

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer that grows."""
        self.status = status
        lines = {**headers, "x-request-id": self.request_id}
        raw = [(name.encode("latin-1"), text.encode("latin-1", "replace")) for name, text in lines.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def send(self, data: bytes) -> None:
        """The next piece of an answer. A long one goes in parts: the web server need not hold all that a slow caller has not read."""
        self.sent += len(data)
        for at in range(0, len(data), PIECE):
            part = data if len(data) <= PIECE else data[at : at + PIECE]
            await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self) -> None:
        """The answer is complete."""
        await self._send({"type": "http.response.body", "body": b""})

    def _declared(self) -> int | None:
        length = self.header("content-length")
        return int(length) if length.isdecimal() else None

    async def _next_part(self) -> bytes:
        try:
            async with asyncio.timeout(BODY_IDLE_S):
                message = await self._receive()
        except TimeoutError:
            raise BadRequest(f"the body stopped arriving; nothing came for {BODY_IDLE_S:g} seconds") from None
        if message["type"] == "http.disconnect":
            raise Cancelled("the caller hung up while sending its body")
        if not message.get("more_body", False):
            self._body_read.set()
        part: bytes = message.get("body", b"")
        self.received += len(part)
        return part

    async def _hung_up(self) -> None:
        await self._body_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def foreign(peer: str | None, header: Callable[[str], str]) -> str | None:
    """Why a server that asks for no token does not serve a call, as the end of a sentence; None for one from this machine itself.

    A web page must not reach such a server through the browser of whoever runs it: neither under a name that was re-pointed to this
    machine (Host), nor from another site (Origin; a picture or a link on a page sends none, and a GET runs a model too).
    """
    if peer is not None and not is_loopback(peer):
        return "serves callers on its own machine only"
    host, origin = _name(header("host")), header("origin")
    elsewhere = not is_loopback(_name(origin.partition("://")[2])) if origin else header("sec-fetch-site") in _ELSEWHERE
    if host and not is_loopback(host):
        return f"does not answer to the name {host[:80]}"
    return "does not answer pages of other sites" if elsewhere else None


def _name(host_port: str) -> str:
    if host_port.startswith("["):
        return host_port[1:].partition("]")[0]
    return host_port.partition(":")[0].lower()


def error_headers(error: SensoriumError) -> dict[str, str]:
    """What an error says in headers, whatever the dialect of its body."""
    said = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    if isinstance(error, MethodNotAllowed):
        said["allow"] = error.allow
    if error.retry_after is not None:
        said["retry-after"] = str(max(1, round(error.retry_after)))
    return said
