"""What an engine answers: chat about pictures, drawing, the list of its models, its state. An ASGI app over loaded models and one lane.

It does not know how the process was started or where its socket came from.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec
from PIL import Image

from sensorium.engines import chat, genai, pictures
from sensorium.engines.diffusion_vlm.answering import Delta, Finished
from sensorium.engines.diffusion_vlm.ask import check as check_ask
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.fencing import ATTEMPT, REQUEST, Fence
from sensorium.engines.flow_image.engine import FlowImage
from sensorium.engines.lane import Cancelling, Lane
from sensorium.errors import Cancelled, MethodNotAllowed, NotFound, SensoriumError, Unauthorized, UnknownModel, UpstreamFailed
from sensorium.exchange import Exchange, Receive, Render, Send, error_headers
from sensorium.wire import decoding, nvidia, openai, parameters, sse

BODY_CAP = 64 * 1024 * 1024
GENAI = "/v1/genai/"
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}
Model = TypeVar("Model")
Events = AsyncIterator[Delta | Finished]
log = logging.getLogger("sensorium.engine")


class EngineApp:
    """The ASGI app over loaded models. `models` maps the id that callers use to a model; `deadline_s` counts from admission: fetching
    pictures, waiting and work."""

    def __init__(
        self,
        models: Mapping[str, DiffusionVLM | FlowImage],
        lane: Lane,
        token: str,
        allow_egress: Collection[str] = (),
        deadline_s: float | None = None,
    ) -> None:
        self._seeing = {name: model for name, model in models.items() if isinstance(model, DiffusionVLM)}
        self._drawing = {name: model for name, model in models.items() if isinstance(model, FlowImage)}
        self._models, self._lane, self._token = models, lane, token.encode()
        self._allow, self._deadline_s = allow_egress, deadline_s
        self._fence = Fence()
        # One decoded picture at a time, however many callers there are: each may take a hundred megabytes.
        self._decoding = ThreadPoolExecutor(1, "pictures")
        self._born = int(time.time())
        self._routes = {
            "/readyz": ("GET", self._ready),
            "/v1/models": ("GET", self._list),
            "/v1/lane": ("GET", self._counters),
            "/v1/chat/completions": ("POST", self._chat),
        }

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"an engine does not serve {scope['type']}")
        exchange = Exchange(scope, receive, send)
        render = nvidia.error if exchange.path.startswith(GENAI) else openai.error
        try:
            await self._answer(exchange)
        except Cancelled:
            log.info("call %s: the caller hung up", exchange.request_id)
        except SensoriumError as error:
            await _fail(exchange, error, render)
        except Exception:  # outermost: a fault of ours must not show its inside, and must not end the process
            log.exception("call %s failed", exchange.request_id)
            await _fail(exchange, UpstreamFailed("the engine failed on this call; its log has the details"), render)

    async def _answer(self, exchange: Exchange) -> None:
        """Find the route, check the token, run the handler."""
        drawing = exchange.path.startswith(GENAI)
        method, handler = ("POST", self._draw) if drawing else self._routes.get(exchange.path, ("", None))
        if handler is None:
            raise NotFound(f"no such route: {exchange.path[:200]}")
        if exchange.path != "/readyz" and not self._knows(exchange.header("authorization")):
            raise Unauthorized("this engine serves its own hub only; call the hub")
        if exchange.method != method:
            raise MethodNotAllowed(f"{exchange.path[:200]} takes {method}, not {exchange.method}", method)
        async with self._fence.held(exchange.header(REQUEST), exchange.header(ATTEMPT)):
            await handler(exchange)

    def _knows(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token)

    async def _ready(self, exchange: Exchange) -> None:
        await exchange.respond(200, msgspec.json.encode({"status": "ready"}))

    async def _list(self, exchange: Exchange) -> None:
        shared = {"object": "model", "created": self._born, "owned_by": "sensorium"}
        entries = [{"id": name, **shared, **described(model)} for name, model in self._models.items()]
        await exchange.respond(200, openai.model_list(entries))

    async def _counters(self, exchange: Exchange) -> None:
        lane = self._lane
        await exchange.respond(200, msgspec.json.encode({"device": lane.name, "limit": lane.limit, **asdict(lane.counters)}))

    async def _chat(self, exchange: Exchange) -> None:
        # The last piece is sent unattended: a caller who has got it is free to hang up.
        said, rest = await exchange.attended(self._converse(exchange, await exchange.body(BODY_CAP)))
        if exchange.status:
            await exchange.send(rest)
            await exchange.end()
        else:
            await exchange.respond(200, rest, said)

    async def _converse(self, exchange: Exchange, body: bytes) -> tuple[dict[str, str], bytes]:
        """Answer up to the last piece; headers, and that piece (of a whole answer: all)."""
        call = chat.read(body)
        name, model = _chosen(self._seeing, call.model)
        check_ask(call.ask)
        del body  # it holds all pictures, while the call may wait for long
        said = _origin(name, model) | ({"x-sensorium-ignored": parameters.listed(call.ignored)} if call.ignored else {})
        identity = {"id": f"chatcmpl-{exchange.request_id}", "created": int(time.time()), "model": name}
        with self._lane.admitted(self._deadline_s) as turn:
            async with turn.in_time():
                call = await chat.with_pictures(call, self._loader(model), decoding.PIXEL_CAP)
            ask = call.ask

            def job(cancelled: Cancelling) -> Iterator[Delta | Finished]:
                return model.answer(model.prepare(ask, cancelled), cancelled)

            async with aclosing(turn.stream(job)) as events:
                if call.stream:
                    return said, await _streamed(exchange, chat.Chunks(call, identity), said, events)
                text, finished = await _collected(events)
                return said, chat.completion(call, identity, text, finished)

    def _loader(self, model: DiffusionVLM) -> chat.Load:
        """Loads pictures as this model sees them, with the pixels that were decoded for it."""

        def see(image: Image.Image) -> tuple[Any, int]:
            return model.see(image), image.width * image.height

        async def load(url: str, where: str, pixels: int) -> tuple[Any, int]:
            enough, threads = model.enough, self._decoding
            return await pictures.load(url, where, self._allow, see=see, pixel_cap=pixels, enough=enough, threads=threads)

        return load

    async def _draw(self, exchange: Exchange) -> None:
        name, model = _chosen(self._drawing, exchange.path.removeprefix(GENAI))
        call = genai.read(await exchange.body(BODY_CAP))
        model.check(call.wish)

        def job(cancelled: Cancelling) -> tuple[bytes, dict[str, str]]:
            drawing = model.draw(call.wish, cancelled)
            return genai.artifact(call, drawing), genai.headers(drawing)

        body, said = await exchange.attended(self._lane.run(job, self._deadline_s))
        await exchange.respond(200, body, _origin(name, model) | said)


def described(model: DiffusionVLM | FlowImage) -> dict[str, Any]:
    """What a model is, for lists."""
    kind = "diffusion_vlm" if isinstance(model, DiffusionVLM) else "flow_image"
    return {"kind": kind, "modality": "chat" if kind == "diffusion_vlm" else "image", "scope": model.scope}


def _origin(name: str, model: DiffusionVLM | FlowImage) -> dict[str, str]:
    return {"x-sensorium-model": name} | ({"x-sensorium-scope": model.scope} if model.scope else {})


def _chosen(models: Mapping[str, Model], name: str) -> tuple[str, Model]:
    """The model of that id; `*` takes the only one. Raises UnknownModel."""
    if name == "*" and len(models) == 1:
        name = next(iter(models))
    if name not in models:
        raise UnknownModel(f"no model {name[:200]!r} here for this route; there is {', '.join(models) or 'none'}", param="model")
    return name, models[name]


async def _collected(events: Events) -> tuple[str, Finished]:
    """The whole text, and the end."""
    pieces = [event async for event in events]
    finished = pieces.pop()
    assert isinstance(finished, Finished)
    return "".join(piece.text for piece in pieces if isinstance(piece, Delta)), finished


async def _streamed(exchange: Exchange, chunks: chat.Chunks, said: Mapping[str, str], events: Events) -> bytes:
    """Send every event but the last; what is left to send. Nothing goes out before the first, so that a refusal still gets its status."""
    rest = b""
    async for event in events:
        if not exchange.status:
            await exchange.begin(200, {**EVENTS, **said})
            await exchange.send(chunks.begin())
        if isinstance(event, Finished):
            rest = chunks.end(event)
        else:
            await exchange.send(chunks.text(event))
    return rest


async def _fail(exchange: Exchange, error: SensoriumError, render: Render) -> None:
    """The error in the route's dialect; inside a stream as an event, after which the stream ends without its end mark."""
    body = render(error, exchange.request_id)
    if exchange.status:
        await exchange.send(sse.event(body))
        await exchange.end()
        return
    await exchange.respond(error.status, body, error_headers(error))
