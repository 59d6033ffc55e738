"""One run of a request: what its work is given, and how it tells of its progress."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sensorium.jobs.logs import Line, Log
from sensorium.jobs.request import Made, Request

Work = Callable[["Run"], Awaitable[Made]]
"""Does what a request asks for. Raises SensoriumError."""
FLUSH_S = 0.1


class Run:
    """`request` as it was claimed, its `body`, and `handle`: where an earlier run left the work with a provider (None: nowhere).

    `write` says whether lines are on disk now. `cancelled` says that its caller wants it no more, `detached` that the hub stops: what a
    provider works on then goes on there.
    """

    def __init__(
        self,
        request: Request,
        body: bytes,
        log: Log,
        now: Callable[[], float],
        keep: Callable[[Request, dict[str, Any]], Awaitable[None]],
        write: Callable[[Request, list[Line]], Coroutine[Any, Any, bool]],
        logged: Callable[[str], None],
    ) -> None:
        self.request, self.body, self.lines = request, body, log
        self.handle = request.upstream
        self.cancelled = self.detached = False
        self._now, self._keep, self._write, self._logged = now, keep, write, logged
        self._flushing: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def log(self, message: str, level: str = "INFO") -> None:
        """Tell something that whoever looks at the request sees at once."""
        if not self.lines.add(self._now(), level, message):
            return
        self._logged(self.request.id)
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    async def keep(self, handle: dict[str, Any]) -> None:
        """Remember where a provider works on this; on disk when it returns. An empty one forgets it."""
        self.handle = handle or None
        await self._keep(self.request, handle)

    async def last_lines(self) -> list[Line]:
        """The lines that are not on disk yet, for whoever writes the end."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._writing is not None:
            await asyncio.wait({self._writing})
        return self.lines.unwritten()

    def _flush(self) -> None:
        self._flushing = None
        if self._writing is not None and not self._writing.done():  # a slow disk: the next batch is longer
            self._flushing = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)
        else:
            self._writing = asyncio.create_task(self._write_down(self.lines.unwritten()))

    async def _write_down(self, lines: list[Line]) -> None:
        if await self._write(self.request, lines):
            self.lines.wrote(lines)
