"""What an engine answers: chat about pictures, drawing, the list of its models, its state. An ASGI app over hosted models.

It does not know how the process was started, where its socket came from or how models are loaded.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import msgspec
from PIL import Image

from sensorium.engines import chat, genai, pictures
from sensorium.engines.diffusion_vlm.answering import Delta, Finished
from sensorium.engines.diffusion_vlm.ask import check as check_ask
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.fencing import ATTEMPT, REQUEST, Fence
from sensorium.engines.hosted import TRY_AGAIN_S, Hosted, chosen
from sensorium.engines.lane import Cancelling, Counters
from sensorium.errors import Cancelled, MethodNotAllowed, NotFound, SensoriumError, Unauthorized, UpstreamFailed
from sensorium.exchange import Exchange, Receive, Render, Send, error_headers
from sensorium.wire import decoding, nvidia, openai, parameters, sse

BODY_CAP = 64 * 1024 * 1024
GENAI = "/v1/genai/"
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}
T = TypeVar("T")
Events = AsyncIterator[Delta | Finished]
log = logging.getLogger("sensorium.engine")


class EngineApp:
    """The ASGI app. `token` is what callers show ("": nobody has to); `deadline_s` counts from admission: fetching pictures, waiting and
    work."""

    def __init__(self, hosted: Sequence[Hosted], token: str, allow_egress: Collection[str] = (), deadline_s: float | None = None) -> None:
        self._hosted, self._token = hosted, token.encode()
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
        if not self._token:
            return True
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token)

    async def _ready(self, exchange: Exchange) -> None:
        if all(one.state == "ready" for one in self._hosted):
            await exchange.respond(200, msgspec.json.encode({"status": "ready"}))
            return
        told = {"status": "loading", "models": [one.progress() for one in self._hosted]}
        await exchange.respond(503, msgspec.json.encode(told), {"retry-after": f"{TRY_AGAIN_S:.0f}"})

    async def _list(self, exchange: Exchange) -> None:
        shared = {"object": "model", "created": self._born, "owned_by": "sensorium"}
        entries = [{"id": name, **shared, **described(one)} for one in self._hosted for name in one.names]
        await exchange.respond(200, openai.model_list(entries))

    async def _counters(self, exchange: Exchange) -> None:
        lanes = list({id(one.lane): one.lane for one in self._hosted}.values())
        told = [{"device": lane.name, "limit": lane.limit, **asdict(lane.counters)} for lane in lanes]
        sums = {name: sum(one[name] for one in told) for name in ("limit", *asdict(Counters()))}
        await exchange.respond(200, msgspec.json.encode({"device": ", ".join(lane.name for lane in lanes), **sums, "lanes": told}))

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
        hosted = chosen(self._hosted, call.model, "chat")
        check_ask(call.ask)
        del body  # it holds all pictures, while the call may wait for long
        said = _origin(hosted) | ({"x-sensorium-ignored": parameters.listed(call.ignored)} if call.ignored else {})
        identity = {"id": f"chatcmpl-{exchange.request_id}", "created": int(time.time()), "model": hosted.name}
        async with hosted.in_use() as model:
            with hosted.lane.admitted(self._deadline_s) as turn:
                async with turn.in_time():
                    call = await chat.with_pictures(call, self._loader(model), decoding.PIXEL_CAP)
                    job = await self._in_pool(partial(model.prepare, call.ask))
                async with aclosing(turn.stream(model.work(job))) as events:
                    if call.stream:
                        return said, await _streamed(exchange, chat.Chunks(call, identity), said, events)
                    text, finished = await _collected(events)
                    return said, chat.completion(call, identity, text, finished)

    async def _in_pool(self, work: Callable[[], T]) -> T:
        """Run something of some cost beside the loop; one thing at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, work)

    def _loader(self, model: DiffusionVLM) -> chat.Load:
        """Loads pictures as this model sees them, with the pixels that were decoded for it."""

        def see(image: Image.Image) -> tuple[Any, int]:
            return model.see(image), image.width * image.height

        async def load(url: str, where: str, pixels: int) -> tuple[Any, int]:
            enough, threads = model.enough, self._decoding
            return await pictures.load(url, where, self._allow, see=see, pixel_cap=pixels, enough=enough, threads=threads)

        return load

    async def _draw(self, exchange: Exchange) -> None:
        hosted = chosen(self._hosted, exchange.path.removeprefix(GENAI), "image")
        call = genai.read(await exchange.body(BODY_CAP))
        async with hosted.in_use() as model:
            model.check(call.wish)

            def job(cancelled: Cancelling) -> tuple[bytes, dict[str, str]]:
                drawing = model.draw(call.wish, cancelled)
                return genai.artifact(call, drawing), genai.headers(drawing)

            body, said = await exchange.attended(hosted.lane.run(job, self._deadline_s))
        await exchange.respond(200, body, _origin(hosted) | said)


def described(hosted: Hosted) -> dict[str, Any]:
    """What a model is, for lists."""
    what = {"kind": hosted.kind, "modality": hosted.modality, "scope": hosted.scope, "state": hosted.state}
    return what | asdict(hosted.place)


def _origin(hosted: Hosted) -> dict[str, str]:
    return {"x-sensorium-model": hosted.name} | ({"x-sensorium-scope": hosted.scope} if hosted.scope else {})


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
