"""What apps stand on, for tests: a store of files in memory, models that answer from a script, and one run of an app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from sensorium.apps.app import Output, Task
from sensorium.apps.registry import Apps
from sensorium.errors import BodyTooLarge, NotFound
from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch, Parts
from sensorium.routing.health import Health
from sensorium.routing.payload import payload
from sensorium.store.database import StoreUnavailable
from sensorium.wire import sse
from sensorium.wire.fal_errors import Refused
from sensorium.wire.lifecycle import KEPT, Lifecycle

BASE = "http://hub.example:8789"
LINKS = "/fal/cdn/files/"


@dataclass(frozen=True)
class Stored:
    key: str
    owner: str
    request: str | None
    content_type: str
    name: str
    lifecycle: Lifecycle
    data: bytes = field(repr=False)


class Store:
    """The contract of `store.files.Files`, in memory; `full_after` files it takes no more."""

    def __init__(self, full_after: int = 100) -> None:
        self.files: dict[str, Stored] = {}
        self.full_after, self.broken = full_after, False

    def put(
        self, data: bytes, *, owner: str, content_type: str, name: str, request: str | None = None, lifecycle: Lifecycle = KEPT
    ) -> Stored:
        if len(self.files) >= self.full_after:
            raise BodyTooLarge("the store is full")
        made = Stored(f"key{len(self.files)}", owner, request, content_type, name, lifecycle, data)
        self.files[made.key] = made
        return made

    def url(self, file: Stored, base_url: str) -> str:
        return f"{base_url}{LINKS}sig/{file.key}.bin"

    def own(self, url: str, caller: str, most: int | None = None) -> tuple[bytes, str] | None:
        if LINKS not in url:
            return None
        found = self.files.get(url.rpartition("/")[2].partition(".")[0])
        if found is None or found.owner != caller:
            raise NotFound("there is no such file, or its time is over")
        if most is not None and len(found.data) > most:
            raise BodyTooLarge("the file is too large")
        if self.broken:
            raise StoreUnavailable("the disk is gone")
        return found.data, found.content_type

    def discard(self, keys: Sequence[str]) -> None:
        for key in keys:
            del self.files[key]

    def at(self, url: str) -> Stored:
        return self.files[url.rpartition("/")[2].partition(".")[0]]


@dataclass(frozen=True)
class Says:
    """A model's answer."""

    body: bytes | Sequence[bytes]
    media: str = "application/json"
    status: int = 200


Model = Callable[[Call, Route], Says | Exception]


class Models:
    """The transport to models that `model` plays; `sent` are the bodies that they would really get, decoded."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.sent: list[Any] = []
        self.calls: list[Call] = []
        self.closed = 0

    async def send(self, call: Call, route: Route) -> Reply:
        made = payload(call, route)
        self.calls.append(call)
        self.sent.append(json.loads(made.data) if made.data and made.data[:1] == b"{" else made.data)
        said = self.model(call, route)
        if isinstance(said, Exception):
            raise said

        async def chunks() -> AsyncIterator[bytes]:
            for chunk in [said.body] if isinstance(said.body, bytes) else said.body:
                yield chunk

        async def close() -> None:
            self.closed += 1

        return Reply(said.status, {"content-type": said.media}, chunks(), close, route, changes=made.changes)


def dispatching(routes: Iterable[Route], send: Any) -> Dispatch:
    return Dispatch(Catalog(routes), Parts(send, lambda record: None, Health(lambda: 0.0), lambda: 0.0))


@dataclass
class Bench:
    """Apps over models that are played; `lines` are what the last run logged."""

    routes: Sequence[Route]
    model: Model
    store: Store = field(default_factory=Store)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.models = Models(self.model)
        self.apps = Apps(dispatching(self.routes, self.models.send), self.store, self.fetched)
        self.links: dict[str, bytes | Exception] = {}

    async def fetched(self, url: str) -> bytes:
        found = self.links[url]
        if isinstance(found, Exception):
            raise found
        return found

    def task(self, path: str, input: Any, **more: Any) -> Task:
        self.lines.clear()
        return Task("r1", "alice", input, path, BASE, log=self.lines.append, **more)

    def run(self, endpoint: str, input: Any, **more: Any) -> Output:
        app, path = self.apps.find(endpoint)
        return asyncio.run(app.run(self.task(path, input, **more)))

    def outputs(self, endpoint: str, input: Any) -> list[Output]:
        app, path = self.apps.find(endpoint)
        return asyncio.run(gathered(app.stream(self.task(path, input))))

    def refused(self, endpoint: str, input: Any) -> list[dict[str, Any]]:
        """The details of the refusal, without their url, which each must have; nothing may have been stored."""
        try:
            made = self.run(endpoint, input)
        except Refused as refused:
            assert all(one.pop("url") == f"https://docs.fal.ai/errors#{one['type']}" for one in refused.details)
            assert not self.store.files or all(file.request is None for file in self.store.files.values())
            assert self.lines[0].startswith("started")
            assert self.lines[-1].startswith("failed: ")
            return refused.details
        raise AssertionError(f"taken: {made}")


async def gathered(outputs: Any) -> list[Output]:
    async with aclosing(outputs):
        return [output async for output in outputs]


def events(*pieces: str, reason: str | None = "stop", done: bool = True, **last: Any) -> Says:
    """A chat stream, one chunk of bytes per event."""
    frames: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
    frames += [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    if reason is not None:
        frames.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    frames += [{"choices": [], **last}] if last else []
    chunks = [sse.event(json.dumps(frame).encode()) for frame in frames]
    return Says([*chunks, sse.DONE] if done else chunks, "text/event-stream")
