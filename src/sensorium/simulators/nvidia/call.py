"""One request as the simulated service sees it, and the sending of one answer: whole, in frames, slowly, or broken off on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sensorium.exchange import Exchange, Receive, Send
from sensorium.simulators.nvidia.hosts import locate
from sensorium.simulators.replies import Reply

Sleep = Callable[[float], Awaitable[None]]
PIECES = 8
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


@dataclass(frozen=True, slots=True)
class Manner:
    """How an answer is sent: seconds before the first byte and between pieces; `pieces` is how many are sent, None for all.

    `silent` sends nothing at all and waits for the caller to give up.
    """

    first_byte_s: float = 0.0
    pace_s: float = 0.0
    pieces: int | None = None
    silent: bool = False


class Call(Exchange):
    """A request for `place`. Its answers carry the headers that they are given and no others."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        host, port = scope["server"] or ("127.0.0.1", None)
        self.origin = f"{scope['scheme']}://{f'[{host}]' if ':' in host else host}" + (f":{port}" if port else "")
        self.query = scope["query_string"].decode("latin-1")
        self.place = locate(self.path, self.header("host"), self.header("function-id"), self.header("function-version-id"))
        self.model = ""

    @property
    def headers(self) -> dict[str, str]:
        """All headers by their lower-case names."""
        return dict(self._headers)

    @property
    def key(self) -> str:
        """What the Authorization header carries, whatever it is worth."""
        return self.header("authorization").partition(" ")[2].strip()

    def has(self, name: str) -> bool:
        """Whether a header was sent, if only an empty one."""
        return name in self._headers

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer, without the house's own request id."""
        self.status = status
        raw = [(name.encode("latin-1"), text.encode("latin-1", "replace")) for name, text in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def deliver(self, reply: Reply, manner: Manner, sleep: Sleep) -> None:
        """Send `reply` in the ordered manner. One that is to break off is left unfinished: the server then cuts the connection."""
        if manner.silent:
            await asyncio.Event().wait()
        if manner.first_byte_s:
            await sleep(manner.first_byte_s)
        sizes = {} if reply.frames else {"content-length": str(len(reply.body))}
        await self.begin(reply.status, {**reply.headers, **sizes})
        whole = manner == Manner(first_byte_s=manner.first_byte_s)
        pieces = reply.frames or ((reply.body,) if whole else _cut(reply.body))
        for number, piece in enumerate(pieces[: manner.pieces]):
            if number and manner.pace_s:
                await sleep(manner.pace_s)
            await self.send(piece)
        if manner.pieces is None:
            await self.end()


def half(reply: Reply) -> int:
    """How many pieces of `reply` are about one half, at least one."""
    return max(1, len(reply.frames or _cut(reply.body)) // 2)


def _cut(body: bytes) -> tuple[bytes, ...]:
    size = max(1, -(-len(body) // PIECES))
    return tuple(body[start : start + size] for start in range(0, len(body), size)) or (b"",)
