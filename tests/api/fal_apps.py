"""Apps that do what their input says, for the doors of fal's protocol."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from sensorium.apps.app import App, Output, Task, UnknownApp
from sensorium.errors import Busy
from sensorium.routing.call import Call, Where
from sensorium.routing.origin import ORIGIN, Origin
from sensorium.routing.terms import laid_on
from sensorium.wire.fal_errors import Refused, detail


class Echo:
    """The app `t/rt`. It answers its input, or does what that says: `wait` for a word of the test, `busy`, `refuse`, `break`.

    `ran` are the tasks so far, `under` the origins and the places (`x-sensorium-where`) of their calls. `waiting` and `cancelled` are set
    when one waits, and when it is ended by its caller's leaving.
    """

    id = "t/rt"

    def __init__(self) -> None:
        self.ran: list[Task] = []
        self.under: list[tuple[Origin | None, Where]] = []
        self.waiting, self.cancelled = threading.Event(), threading.Event()
        self.go_on = threading.Event()

    def lane(self, path: str) -> str:
        if path not in ("", "/sub"):
            raise UnknownApp(f"t/rt has no {path}")
        return "echo"

    async def run(self, task: Task) -> Output:
        self.ran.append(task)
        self.under.append((ORIGIN.get(), laid_on(Call(task.id, "echo", "chat", ("openai",), "/echo", {}), "any", 0.0).where))
        given: dict[str, Any] = task.input
        if given.get("do") == "wait":
            await self._wait()
        elif given.get("do") == "busy":
            raise Busy("the queue is full", retry_after=1)
        elif given.get("do") == "refuse":
            raise Refused([detail("prompt", "Field required", "missing")])
        elif given.get("do") == "break":
            raise ZeroDivisionError("s3cret words of a prompt")
        return Output({"echo": given, "path": task.path, "caller": task.caller}, headers={"x-sensorium-source": "toy"})

    async def _wait(self) -> None:
        self.waiting.set()
        try:
            while not self.go_on.is_set():
                await asyncio.sleep(0.002)
        finally:
            if not self.go_on.is_set():
                self.cancelled.set()

    async def stream(self, task: Task) -> AsyncIterator[Output]:
        yield await self.run(task)

    def openapi(self, path: str, base_url: str) -> dict[str, Any]:
        return {}


class OneApp:
    """A hub's apps, of which there is one."""

    def __init__(self, app: Echo) -> None:
        self._app = app

    def find(self, endpoint: str) -> tuple[App, str]:
        if endpoint != self._app.id and not endpoint.startswith(f"{self._app.id}/"):
            raise UnknownApp(f"Application '{endpoint}' not found")
        return self._app, endpoint.removeprefix(self._app.id)
