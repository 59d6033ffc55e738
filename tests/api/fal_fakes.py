"""Apps and a queue in memory, in the places of the real ones, for the tests of fal's doors."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from sensorium.api import fal_queue, fal_run
from sensorium.api.auth import Auth
from sensorium.api.cors import Cors
from sensorium.api.fal_queue import QueueDoor
from sensorium.api.fal_run import RunDoor
from sensorium.api.fal_webhooks import check_target
from sensorium.api.hold import Hold
from sensorium.api.router import Router
from sensorium.apps.app import Output, Task, UnknownApp
from sensorium.errors import Busy, SensoriumError
from sensorium.exchange import Render
from sensorium.jobs.endings import failed
from sensorium.jobs.logs import Line
from sensorium.jobs.request import Asked, KeyReused, Request, Rules, State, UnknownRequest
from sensorium.wire import fal_errors, openai
from sensorium.wire.fal_errors import Refused, detail
from tests.api.hubs import Hub
from tests.serving import serving

ECHO, DEEP = "acme/echo", "acme/echo/deep/er"
NOW = 1_767_225_600.0


class Echo:
    """An app that answers with what it was given; `tasks` are those that it ran. `error` is raised instead, `breaks` in mid-stream."""

    id = ECHO

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.error: SensoriumError | None = None
        self.breaks: SensoriumError | None = None
        self.gate: Callable[[], asyncio.Event] | None = None

    def lane(self, path: str) -> str:
        if path not in ("", "/deep/er"):
            raise UnknownApp(f"Application '{self.id}{path}' not found")
        return "echo-model"

    async def run(self, task: Task) -> Output:
        self._begin(task)
        return Output({"echo": task.input, "path": task.path}, headers={"x-sensorium-source": "echoes"})

    async def stream(self, task: Task) -> AsyncIterator[Output]:
        self._begin(task)
        yield Output({"output": "one"})
        if self.gate is not None:
            await self.gate().wait()
        if self.breaks is not None:
            raise self.breaks
        yield Output({"output": "one two", "usage": {"completion_tokens": 2}})

    def openapi(self, path: str, base_url: str) -> dict[str, Any]:
        return {"openapi": "3.1.0", "servers": [{"url": base_url}], "info": {"title": self.id + path, "version": "1"}}

    def _begin(self, task: Task) -> None:
        self.lane(task.path)
        self.tasks.append(task)
        if self.error is not None:
            raise self.error
        if "prompt" not in task.input:
            raise Refused([detail("prompt", "Field required", "missing", input=task.input)])


class FakeApps:
    def __init__(self, *apps: Echo) -> None:
        self.apps = {app.id: app for app in apps}

    def find(self, endpoint: str) -> tuple[Echo, str]:
        id = "/".join(endpoint.split("/")[:2])
        if id not in self.apps:
            raise UnknownApp(f"Application '{endpoint}' not found")
        return self.apps[id], endpoint.removeprefix(id)


class FakeQueue:
    """`run` does nothing by itself: a test moves its requests. With `steps`, each look moves the request on by one state.

    `held` are the seconds for which looks were held; a held look ends with a change, or when the test lets `elapse`.
    """

    def __init__(self, app: Echo | None = None) -> None:
        self.requests: dict[str, Request] = {}
        self.asked: dict[str, Asked] = {}
        self.outputs: dict[str, bytes] = {}
        self.logs: dict[str, list[Line]] = {}
        self.held: list[float] = []
        self.at_once = True
        self.steps: Echo | None = app
        self._keys: dict[str, str] = {}
        self._moved = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def submit(self, asked: Asked) -> tuple[Request, bool]:
        waiting = sum(request.waits for request in self.requests.values())
        if asked.most_waiting is not None and waiting > asked.most_waiting:
            raise Busy(f"{waiting} requests wait", retry_after=5)
        known = self._keys.get(asked.idempotency_key or "")
        if known is not None:
            if self.asked[known].body != asked.body:
                raise KeyReused("this Idempotency-Key came with another body")
            return self.requests[known], True
        request = self.add(asked)
        if asked.idempotency_key:
            self._keys[asked.idempotency_key] = request.id
        return request, False

    def add(self, asked: Asked) -> Request:
        id, seq = str(uuid.uuid4()), len(self.requests) + 1
        request = Request(
            seq=seq,
            id=id,
            work=asked.work,
            app=asked.app,
            path=asked.path,
            lane=asked.lane,
            caller=asked.caller,
            prio=asked.prio,
            vtag=0.0,
            call=dict(asked.call),
            rules=asked.rules,
            state=State.QUEUED,
            attempt=0,
            runs=0,
            deaths=0,
            upstream=None,
            told={},
            status=None,
            webhook_url=asked.webhook_url,
            ver=1,
            created_at=NOW,
            claimed_at=None,
            finished_at=None,
            start_deadline=None,
            cancel_at=None,
            payload_gone=False,
        )
        self.requests[id], self.asked[id], self.logs[id] = request, asked, []
        return request

    async def of(self, caller: str | None, id: str) -> Request:
        found = self.requests.get(id)
        if found is None or found.caller != caller:
            raise UnknownRequest(f"no request {id[:80]} of this caller is known")
        if self.steps is not None and not found.done:
            await self._step(found, self.steps)
        return self.requests[id] if self.steps is None else found

    async def position(self, request: Request) -> int:
        return sum(one.waits and one.seq < request.seq for one in self.requests.values())

    async def changed(self, request: Request, seconds: float) -> Request:
        self.held.append(seconds)
        self._loop = asyncio.get_running_loop()
        if self.steps is not None and not request.done and self._same(request):
            await self._step(request, self.steps)
        elif self.at_once is False and self._same(request):
            self._moved = asyncio.Event()
            await self._moved.wait()
        return self.requests[request.id]

    async def lines(self, request: Request, after: tuple[int, int] = (0, 0)) -> list[Line]:
        return [line for line in self.logs[request.id] if (line.attempt, line.number) > after]

    async def cancel(self, caller: str | None, id: str) -> bool:
        found = self.requests[id]
        if found.done:
            return False
        self.move(id, State.CANCELLED if found.waits else found.state, cancel_at=NOW)
        return True

    async def output(self, request: Request) -> bytes | None:
        return self.outputs.get(request.id)

    async def listed(self, caller: str | None, limit: int, after: str | None = None, **which: Any) -> list[Request]:
        known = [one for one in self.requests.values() if (one.caller, one.app, one.work) == (caller, which["app"], which["work"])]
        mine = [one for one in known if not which["states"] or one.state in which["states"]]
        bound = self.requests[after].seq if after is not None else 2**62
        return [one for one in reversed(mine) if one.seq < bound][:limit]

    def move(self, id: str, state: State, **changes: Any) -> None:
        """What the queue's own loop would do."""
        old = self.requests[id]
        began = {"attempt": old.attempt + 1, "claimed_at": NOW + 1} if state is State.RUNNING and old.waits else {}
        self.requests[id] = replace(old, **{"state": state, "ver": old.ver + 1, **began, **changes})
        self.elapse()

    def end(self, id: str, body: bytes, status: int = 200, told: Mapping[str, Any] | None = None) -> None:
        self.outputs[id] = body
        state = State.SUCCEEDED if status == 200 else State.FAILED
        self.move(id, state, status=status, told=dict(told or {"inference_time": 0.5}), finished_at=NOW + 2)

    def log(self, id: str, message: str, level: str = "INFO") -> None:
        old, lines = self.requests[id], self.logs[id]
        lines.append(Line(old.attempt, old.logged + 1, NOW + 1.25, level, message))
        self.requests[id] = replace(old, logged=old.logged + 1)
        self.elapse()

    def elapse(self) -> None:
        """Let a held look go, as its time being over would."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._moved.set)

    def _same(self, request: Request) -> bool:
        now = self.requests[request.id]
        return (now.ver, now.logged) == (request.ver, request.logged)

    async def _step(self, found: Request, app: Echo) -> None:
        if found.waits:
            self.move(found.id, State.RUNNING)
            self.log(found.id, "started")
            return
        self.log(found.id, "finished")
        task = Task(found.id, found.caller, json.loads(self.asked[found.id].body), found.path)
        try:
            output = await app.run(task)
        except SensoriumError as error:
            made = failed(error, "final", found.id)
            self.end(found.id, made.body, made.status, made.told)
        else:
            self.end(found.id, json.dumps(output.body).encode(), told={"inference_time": 0.5, "headers": output.headers or {}})


def asked(caller: str = "local", app: str = ECHO, body: bytes = b'{"prompt": "x"}', work: str = "fal") -> Asked:
    return Asked(work, app, "", "echo-model", caller, body, rules=Rules())


check_webhook = partial(check_target, allow=())


def render(path: str) -> Render:
    return fal_errors.error if path.startswith("/fal/") else openai.error


class Place:
    """fal's doors over a queue and an app in memory."""

    def __init__(self, queue: FakeQueue, app: Echo, hold: Hold | None = None, public_url: str | None = None) -> None:
        self.queue, self.app, self.pings = queue, app, 0
        self.pinged = asyncio.Event()
        apps = FakeApps(app)
        entries = [
            *fal_queue.entries(QueueDoor(queue, apps, check_webhook, public_url, hold=hold)),
            *fal_run.entries(RunDoor(apps, public_url, sleep=self._sleep)),
        ]
        self.router = Router(entries, Auth(None), render, 4096, cors=Cors(("https://app.example",)))
        self.hub = Hub("http://", [])

    async def _sleep(self, seconds: float) -> None:
        """The time between two pings: the first passes at once, the next never."""
        self.pings += 1
        if self.pings > 1:
            self.pinged.set()
            await asyncio.Event().wait()


@contextmanager
def doors(steps: bool = False, **options: Any) -> Iterator[Place]:
    app = Echo()
    place = Place(FakeQueue(app if steps else None), app, **options)
    with serving(place.router) as base:
        place.hub = Hub(base, [])
        try:
            yield place
        finally:
            place.hub.close()
