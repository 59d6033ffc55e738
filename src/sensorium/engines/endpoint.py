"""What an engine answers: chat about pictures, drawing, the list of its models, its state. An ASGI app over hosted models.

It does not know how the process was started, where its socket came from or how models are loaded.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import msgspec

from sensorium.engines import chat, genai
from sensorium.engines.answers import Answers, Events, collected
from sensorium.engines.diffusion_vlm.answering import Delta, Finished
from sensorium.engines.diffusion_vlm.ask import check as check_ask
from sensorium.engines.drawings import Drawings
from sensorium.engines.fencing import ATTEMPT, REQUEST, Fence
from sensorium.engines.hosted import TRY_AGAIN_S, Hosted, chosen
from sensorium.engines.lane import Counters
from sensorium.errors import Cancelled, Forbidden, MethodNotAllowed, NotFound, SensoriumError, TokenMissing, Unauthorized, UpstreamFailed
from sensorium.exchange import Exchange, Receive, Render, Send, error_headers, foreign
from sensorium.wire import fal_errors, nvidia, openai, parameters, sse

BODY_CAP = 64 * 1024 * 1024
GENAI, RUN, STREAM = "/v1/genai/", "/run", "/stream"
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}
SCHEMES: Final = ("bearer", "key")  # OpenAI's and fal's clients
log = logging.getLogger("sensorium.engine")


class Frames(Protocol):
    """How a dialect tells an answer as it grows."""

    def begin(self) -> bytes:
        """What goes before the first piece."""

    def text(self, delta: Delta) -> bytes:
        """One piece."""

    def end(self, finished: Finished) -> bytes:
        """What goes last."""


@dataclass(frozen=True, slots=True)
class Route:
    """A door: its method, who answers, and how its dialect tells errors, whole and inside a stream."""

    method: str
    handler: Callable[[Exchange], Awaitable[None]]
    render: Render = openai.error
    event: Render | None = None


class EngineApp:
    """The ASGI app. `token` is what callers show ("": nobody has to). The other options are those of `Answers`."""

    def __init__(self, hosted: Sequence[Hosted], token: str, allow_egress: Collection[str] = (), deadline_s: float | None = None) -> None:
        self._hosted, self._token = hosted, token.encode()
        self._answers, self._drawings = Answers(allow_egress, deadline_s), Drawings(deadline_s)
        self._fence = Fence()
        self._born = int(time.time())
        self._routes = {
            "/readyz": Route("GET", self._ready),
            "/v1/models": Route("GET", self._list),
            "/v1/lane": Route("GET", self._counters),
            "/v1/chat/completions": Route("POST", self._chat),
            "/metrics": Route("GET", self._metrics),
            "/schema": Route("GET", self._schema),
        }
        self._drawing = Route("POST", self._draw, nvidia.error)
        self._running = Route("POST", self._run, fal_errors.error, _fal_event)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"an engine does not serve {scope['type']}")
        exchange = Exchange(scope, receive, send)
        route = self._route(exchange.path)
        try:
            await self._answer(exchange, route)
        except Cancelled:
            log.info("call %s: the caller hung up", exchange.request_id)
        except SensoriumError as error:
            await _fail(exchange, error, route)
        except Exception:  # outermost: a fault of ours must not show its inside, and must not end the process
            log.exception("call %s failed", exchange.request_id)
            await _fail(exchange, UpstreamFailed("the engine failed on this call; its log has the details"), route)

    def _route(self, path: str) -> Route | None:
        if path.startswith(GENAI):
            return self._drawing
        if path in (RUN, STREAM) or path.startswith((f"{RUN}/", f"{STREAM}/")):
            return self._running
        return self._routes.get(path)

    async def _answer(self, exchange: Exchange, route: Route | None) -> None:
        """Check the token, run the handler."""
        if route is None:
            raise NotFound(f"no such route: {exchange.path[:200]}")
        if exchange.path != "/readyz":
            self._require_known(exchange)
        if exchange.method != route.method:
            raise MethodNotAllowed(f"{exchange.path[:200]} takes {route.method}, not {exchange.method}", route.method)
        async with self._fence.held(exchange.header(REQUEST), exchange.header(ATTEMPT)):
            await route.handler(exchange)

    def _require_known(self, exchange: Exchange) -> None:
        if not self._token:
            reason = foreign(exchange.peer, exchange.header)
            if reason is not None:
                raise Forbidden(f"this engine has no token and {reason}", hint="start it with a token")
            return
        shown = exchange.header("authorization")
        if not shown:
            raise TokenMissing("this engine serves those who show its token, and none was sent")
        scheme, _, given = shown.partition(" ")
        if scheme.lower() not in SCHEMES or not hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            raise Unauthorized("this engine serves those who know its token; its own hub does")

    async def _ready(self, exchange: Exchange) -> None:
        if all(one.state == "ready" for one in self._hosted):
            await exchange.respond(200, msgspec.json.encode({"status": "ready"}))
            return
        told: dict[str, Any] = {"status": "loading"}
        with suppress(Unauthorized, Forbidden):  # anybody may ask whether; which models there are is for those who may call them
            self._require_known(exchange)
            told["models"] = [one.progress() for one in self._hosted]
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

    async def _metrics(self, exchange: Exchange) -> None:
        # Start-up cost: most engines are never asked.
        from sensorium.engines import metrics

        await exchange.respond(200, metrics.rendered(self._hosted), {"content-type": metrics.TEXT})

    async def _schema(self, exchange: Exchange) -> None:
        # Start-up cost: as above.
        from sensorium.engines import schema

        host = exchange.header("host") or "127.0.0.1"
        await exchange.respond(200, msgspec.json.encode(schema.described(self._hosted, f"{exchange.scheme}://{host}")))

    async def _chat(self, exchange: Exchange) -> None:
        # The last piece is sent unattended: a caller who has got it is free to hang up.
        await _end(exchange, *await exchange.attended(self._converse(exchange, await exchange.body(BODY_CAP))))

    async def _converse(self, exchange: Exchange, body: bytes) -> tuple[dict[str, str], bytes]:
        """Answer up to the last piece; headers, and that piece (of a whole answer: all)."""
        call = chat.read(body)
        hosted = chosen(self._hosted, call.model, "chat")
        check_ask(call.ask)
        del body  # it holds all pictures, while the call may wait for long
        said = _origin(hosted) | ({"x-sensorium-ignored": parameters.listed(call.ignored)} if call.ignored else {})
        identity = {"id": f"chatcmpl-{exchange.request_id}", "created": int(time.time()), "model": hosted.name}
        async with self._answers.to(hosted, call) as (call, events):
            if call.stream:
                return said, await _streamed(exchange, chat.Chunks(call, identity), said, events)
            return said, chat.completion(call, identity, *await collected(events))

    async def _run(self, exchange: Exchange) -> None:
        await _end(exchange, *await exchange.attended(self._ran(exchange, await exchange.body(BODY_CAP))))

    async def _ran(self, exchange: Exchange, body: bytes) -> tuple[dict[str, str], bytes]:
        """As `_converse`. The stream of a model is below its name, or below a door of its own."""
        # Start-up cost: the library that checks inputs takes as long to import as all models on board take to load.
        from sensorium.engines import running

        name, grows = _below(exchange.path)
        call = running.asked(body, name)
        hosted, url = chosen(self._hosted, call.model, "chat"), call.pictures[0][0][: fal_errors.INPUT_SHOWN]
        del body  # as above
        said = _origin(hosted) | {fal_errors.REQUEST_ID: exchange.request_id}
        try:
            check_ask(call.ask)
            async with self._answers.to(hosted, call) as (call, events):
                if grows:
                    return said, await _streamed(exchange, running.Growth(call), said, events)
                return said, running.whole(call, *await collected(events))
        except SensoriumError as error:
            raise running.refused(error, url) from None

    async def _draw(self, exchange: Exchange) -> None:
        hosted = chosen(self._hosted, exchange.path.removeprefix(GENAI), "image")
        call = genai.read(await exchange.body(BODY_CAP))
        await _end(exchange, *await exchange.attended(self._drawn(exchange, hosted, call)))

    async def _drawn(self, exchange: Exchange, hosted: Hosted, call: genai.DrawCall) -> tuple[dict[str, str], bytes]:
        """Draw, with an event after each step for whoever asks for events; headers, and the last piece (of a whole answer: all)."""
        stream, rest = genai.wants_steps(exchange.header("accept")), b""
        async with self._drawings.to(hosted, call) as (told, events):
            said = _origin(hosted) | told
            async for event in events:
                if isinstance(event, bytes):
                    rest = sse.event(event) if stream else event
                elif stream:
                    if not exchange.status:
                        await exchange.begin(200, {**EVENTS, **said})
                    await exchange.send(genai.step(event))
        return said, rest


def _below(path: str) -> tuple[str, bool]:
    """The model that a path below RUN or STREAM names, "" for none, and whether its answer is to be told as it grows."""
    door = RUN if path.startswith(RUN) else STREAM
    below = path.removeprefix(door)
    return below.removesuffix(STREAM).strip("/"), door == STREAM or below.endswith(STREAM)


def described(hosted: Hosted) -> dict[str, Any]:
    """What a model is, for lists."""
    what = {"kind": hosted.kind, "modality": hosted.modality, "scope": hosted.scope, "state": hosted.state}
    return what | asdict(hosted.place)


def _origin(hosted: Hosted) -> dict[str, str]:
    return {"x-sensorium-model": hosted.name} | ({"x-sensorium-scope": hosted.scope} if hosted.scope else {})


async def _streamed(exchange: Exchange, frames: Frames, said: Mapping[str, str], events: Events) -> bytes:
    """Send every event but the last; what is left to send. Nothing goes out before the first, so that a refusal still gets its status."""
    rest = b""
    async for event in events:
        if not exchange.status:
            await exchange.begin(200, {**EVENTS, **said})
            await exchange.send(frames.begin())
        if isinstance(event, Finished):
            rest = frames.end(event)
        else:
            await exchange.send(frames.text(event))
    return rest


async def _end(exchange: Exchange, said: Mapping[str, str], rest: bytes) -> None:
    """Send the last piece."""
    if exchange.status:
        await exchange.send(rest)
        await exchange.end()
    else:
        await exchange.respond(200, rest, said)


def _fal_event(error: SensoriumError, request_id: str) -> bytes:
    return sse.event(msgspec.json.encode(fal_errors.told(error)))


async def _fail(exchange: Exchange, error: SensoriumError, route: Route | None) -> None:
    """The error in the route's dialect; inside a stream as an event, after which the stream ends without its end mark."""
    render = route.render if route is not None else openai.error
    if exchange.status:
        event = route.event if route is not None else None
        await exchange.send(event(error, exchange.request_id) if event else sse.event(render(error, exchange.request_id)))
        await exchange.end()
        return
    fal = render is fal_errors.error
    said = {fal_errors.REQUEST_ID: exchange.request_id, **fal_errors.headers(error)} if fal else {}
    body = render(error, exchange.request_id)
    await exchange.respond(fal_errors.status(error) if fal else error.status, body, error_headers(error) | said)
