"""A hub in this process, served on loopback, in front of a test provider."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from sensorium import app, doors, durable
from sensorium.api.router import Router
from sensorium.jobs.dispatcher import Jobs
from sensorium.routing.call import Record, Route, Where
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch, Parts
from sensorium.routing.health import Health
from sensorium.routing.upstream import Upstream
from sensorium.settings import Settings
from sensorium.store.database import Database
from sensorium.wire import multipart
from sensorium.wire.multipart import Part
from tests.serving import serving

MODELS = ("good", "slow", "cut", "odd", "refuse-401", "refuse-503")
SD3, SDXL = "stabilityai/stable-diffusion-3-medium", "stabilityai/stable-diffusion-xl"
DRAWS = ("org/good", "org/odd", "org/filtered", "org/refuse-422", "black-forest-labs/flux.1-dev", SD3, SDXL)


class Scripted:
    """A provider that answers every call with `body` in two pieces, or breaks off between them.

    `asked` holds (query string, body) of each call.
    """

    def __init__(self) -> None:
        self.body, self.media, self.breaks_off = b"{}", b"application/json", False
        self.asked: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        asked, more = b"", True
        while more:
            message = await receive()
            asked, more = asked + message["body"], message["more_body"]
        self.asked.append((scope["query_string"], asked))
        length = (b"content-length", str(len(self.body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", self.media), length]})
        await send({"type": "http.response.body", "body": self.body[:20], "more_body": True})
        if self.breaks_off:
            raise ConnectionAbortedError("broken off on purpose")
        await send({"type": "http.response.body", "body": self.body[20:]})


def form_of(raw: bytes) -> list[Part]:
    """The parts of a form that this hub built; its boundary stands in its first line."""
    return multipart.parse(raw, f"multipart/form-data; boundary={raw[2:34].decode()}")


class Hub:
    """Calls a hub at `base` with the standard library's client; `records` fills as calls end."""

    def __init__(self, base: str, records: list[Record]) -> None:
        self.address = base.removeprefix("http://")
        self.records = records
        self._open: list[HTTPConnection] = []

    def open(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> HTTPResponse:
        connection = HTTPConnection(self.address, timeout=10)
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        self._open.append(connection)
        connection.request(method, path, raw, dict(headers or {}))
        return connection.getresponse()

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[HTTPResponse, bytes]:
        reply = self.open(method, path, body, headers)
        raw = reply.read()
        self._open.pop().close()
        return reply, raw

    def form(self, path: str, *parts: Part) -> tuple[HTTPResponse, bytes]:
        media, body = multipart.build(parts)
        return self.call("POST", path, body, {"content-type": media})

    def json(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        reply, raw = self.call(method, path, body, headers)
        return reply.status, json.loads(raw)


class LazyUpstream:
    """An Upstream that is opened inside the server's own event loop; its clock and its sleep can be given."""

    def __init__(self, *waiting: Any) -> None:
        self._upstream: Upstream | None = None
        self._waiting = waiting

    async def send(self, call: Any, route: Any) -> Any:
        self._upstream = self._upstream or Upstream(*self._waiting)
        return await self._upstream.send(call, route)

    async def close(self) -> None:
        if self._upstream is not None:
            await self._upstream.close()


def settings(provider: str, full: bool = False, **server: Any) -> Settings:
    talk = [{"id": id, "vision": True} for id in MODELS]
    more = [{"id": "good-picture", "modality": "image"}, {"id": "good-vector", "modality": "embed"}] if full else []
    return Settings.model_validate(
        {
            "server": server,
            "providers": {
                "talk": {"kind": "openai", "base_url": f"{provider}/v1", "models": [*talk, *more]},
                "paint": {"kind": "genai", "base_url": f"{provider}/v1/genai", "models": [{"id": id, "modality": "image"} for id in DRAWS]},
            },
        }
    )


def living(router: Router, jobs: Jobs, upstream: LazyUpstream) -> Any:
    """The hub as an app whose queue runs while it is served, and whose connections are closed at the end."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await router(scope, receive, send)
            return
        working = asyncio.create_task(jobs.run())

        async def at_last(message: Any) -> None:
            if message["type"] == "lifespan.shutdown.complete":
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                await upstream.close()
            await send(message)

        await router(scope, receive, at_last)

    return app


@contextmanager
def over(
    routes: Iterable[Route],
    configured: Settings | None = None,
    upstream: LazyUpstream | None = None,
    order: Where = "any",
    health: Health | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Iterator[Hub]:
    """A hub with these routes; `sleep` is how it waits for a rate limit."""
    records: list[Record] = []
    sending = upstream or LazyUpstream()
    dispatch = Dispatch(Catalog(routes), Parts(sending.send, records.append, health or Health(lambda: 0.0), lambda: 0.0, sleep), order)
    configured = configured or Settings()

    with tempfile.TemporaryDirectory() as folder, closing(Database(Path(folder))) as database:
        jobs = durable.queue(configured, dispatch, database, Path(folder))
        router = doors.router(configured, dispatch, dict, jobs)

        with serving(living(router, jobs, sending)) as base:
            hub = Hub(base, records)
            try:
                yield hub
            finally:
                hub.close()


@contextmanager
def running(provider: str, token: str | None = None, full: bool = False, **server: Any) -> Iterator[Hub]:
    """A hub in front of `provider`, in `full` with one model more for pictures and one for embeddings in OpenAI's dialect."""
    configured = settings(provider, full, **server).model_copy(update={"token": token})
    with over(app.catalog(configured, None).routes, configured) as hub:
        yield hub
