"""One small real call to a route, sent as the hub sends calls, to learn whether its address and key work.

A token of chat, a word to embed, the list of voices, a tenth of a second of silence to transcribe. A picture is asked for without a
prompt: the service refuses that after it has looked at the key, and so it costs nothing; only on request is one drawn. A list of models
proves nothing: NVIDIA shows it to any key. fal is asked for a request that does not exist, which it says to its own keys only.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import wave
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from sensorium.errors import DeadlineExceeded, SensoriumError
from sensorium.exchange import JSON
from sensorium.routing.call import Call, Modality, Route
from sensorium.routing.dispatch import Send
from sensorium.routing.health import Closed, Health
from sensorium.routing.opening import opened, retry_after
from sensorium.wire import fal, jsonbody
from sensorium.wire.failure import Failure, FailureClass
from sensorium.wire.multipart import Part

State = Literal["works", "fails", "off", "not called"]
WAIT_S: Final = 60.0
AT_START_S: Final = 20.0
AGAIN_S: Final = 300.0  # until a route that did not work is tried again
LOOK_EVERY_S: Final = 1.0  # for another address or key
USUAL: Final[dict[Modality, str]] = {"image": "black-forest-labs/flux.1-schnell"}  # tried where any name goes and none is listed
REACHED: Final = "address and key work"
# per modality: method, operation, members
CALLS: Final[dict[Modality, tuple[str, str, dict[str, Any]]]] = {
    "chat": ("POST", "chat/completions", {"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 1, "stream": False}),
    "embed": ("POST", "embeddings", {"input": ["hello"]}),
    "image": ("POST", "images/generations", {}),
    "speech": ("GET", "audio/list_voices", {}),
    "transcribe": ("POST", "audio/transcriptions", {}),
}
# where Anthropic takes that chat call; and what is asked for where any name goes: it shows its models to good keys only
ANTHROPIC_CHAT, ANTHROPIC_MODELS = "messages", "models"
NO_REQUEST: Final = "00000000-0000-4000-8000-000000000000"
DRAWN: Final = {"prompt": "a red cube on a white table"}
NAMELESS: Final = ("speech", "transcribe")  # in NVIDIA's dialect they name no model
UNUSUAL: Final = ("image", "transcribe")  # asked for so little that a refusal of it is a good answer too


log = logging.getLogger("sensorium.hub")


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of one route. `detail` is a sentence, `error` the class of the failure that was met."""

    provider: str
    modality: str
    model: str
    state: State
    detail: str
    error: FailureClass | None = None

    @property
    def broken(self) -> bool:
        """Whether something that was configured does not work."""
        return self.state in ("fails", "off")


def known(route: Route) -> Result:
    """What can be said without a call: whether the route's key is there and may go to its address."""
    reason = route.provider.down()
    if reason is not None:
        return _result(route, "off", reason)
    key = route.provider.credential.name
    return _result(route, "not called", f"the key {key} is there" if key else "it needs no key")


def run_here(route: Route) -> Result:
    """The same of a model that the hub runs itself, and that nobody runs now."""
    licence = f", licence {route.licence}" if route.licence else ""
    return _result(route, "not called", f"the hub runs it{licence}; its folder is there, its weights are looked at when it is loaded")


async def probed(routes: Sequence[Route], send: Send, draw: bool) -> list[Result]:
    """What one call to each route tells. `draw` lets image routes make a picture, which costs quota."""
    return list(await asyncio.gather(*(_probed(route, send, draw) for route in routes)))


class Prober:
    """Tries every provider of a hub once per modality, by the first of its routes, and again when its address or its key is another one.

    What it learns is kept in `health` as what a caller's call meets. `clock` is that of the health, in seconds.
    """

    def __init__(self, send: Send, health: Health, clock: Callable[[], float]) -> None:
        self._send, self._health, self._clock = send, health, clock
        self._looked: dict[tuple[str, str], _Look] = {}
        self.tried = asyncio.Event()  # set once everything has been tried for the first time

    async def keep(self, routes: Callable[[], Iterable[Route]], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """`look` at the routes that there are, again and again, until cancelled."""
        while True:
            try:
                await self.look(routes())
            except Exception:  # outermost: what cannot be tried must not end the tries of the others
                log.exception("the providers cannot be tried")
            self.tried.set()
            await sleep(LOOK_EVERY_S)

    async def look(self, routes: Iterable[Route]) -> None:
        """Try what has not been tried yet, and anew what did not work some minutes ago. Takes at most AT_START_S seconds."""
        first: dict[tuple[str, str], Route] = {}
        for route in routes:
            if not (route.stand_in or route.provider.own):
                first.setdefault((route.provider.name, route.modality), route)
        self._looked = {place: look for place, look in self._looked.items() if place in first}
        await asyncio.gather(*(self._look(place, route) for place, route in first.items() if self._due(place, route)))

    def found(self, route: Route) -> Result | None:
        """What the last try of its provider and modality told; None while there is none, or when a caller has been answered since."""
        look = self._looked.get((route.provider.name, route.modality))
        if look is None or look.result is None or look.shape != _shape(route):
            return None
        if look.result.error == "model_unavailable" and look.model != route.upstream:
            return None
        answered = self._health.answered_at(route)
        return None if look.result.broken and answered is not None and answered > look.at else look.result

    def _due(self, place: tuple[str, str], route: Route) -> bool:
        look = self._looked.get(place)
        if look is None or (look.shape, look.model) != (_shape(route), route.upstream):
            return True
        return look.result is not None and look.result.broken and self._clock() >= look.at + AGAIN_S

    async def _look(self, place: tuple[str, str], route: Route) -> None:
        shape, before = _shape(route), self._looked.get(place)
        told = before.result if before is not None and before.shape == shape else None
        mine = self._looked[place] = _Look(shape, route.upstream, self._clock(), told)
        result = await _probed(route, self._send, False, self._health, AT_START_S)
        if self._looked.get(place) is mine:
            self._looked[place] = replace(mine, at=self._clock(), result=result)
        log.log(logging.WARNING if result.state == "fails" else logging.INFO, "%s, %s: %s: %s", *place, result.state, result.detail)


@dataclass(frozen=True, slots=True)
class _Look:
    """One try: of what, when it ended (while it runs, began), and its result (while it runs, that of the one before)."""

    shape: tuple[str, ...]
    model: str
    at: float
    result: Result | None


def _shape(route: Route) -> tuple[str, ...]:
    """What a try depends on, but for the model."""
    provider = route.provider
    return provider.base_url, route.dialect, provider.credential.name or "", str(provider.credential.version())


async def _probed(route: Route, send: Send, draw: bool, health: Health | None = None, wait_s: float = WAIT_S) -> Result:
    found = known(route)
    if found.state == "off":
        return found
    if route.modality not in CALLS and route.dialect != "fal":
        return _result(route, "not called", f"{found.detail}; there is no small call for {route.modality}")
    nameless = (route.dialect == "nvidia" and route.modality in NAMELESS) or route.dialect == "anthropic"
    if route.open and not (route.modality in USUAL or nameless):
        return _result(route, "not called", f"{found.detail}; any model name goes on, list one under models to have it tried")
    asked = replace(route, upstream=USUAL[route.modality]) if route.open and route.modality in USUAL else route
    if health is None:
        result, _, _ = await _asked(route, asked, send, draw, wait_s)
        return result
    admission = health.enter(asked)
    if isinstance(admission, Closed):
        state: State = "not called" if admission.kind == "rate_limited" else "fails"
        return _result(route, state, f"{admission.kind}: {admission.reason}", admission.kind)
    try:
        result, failure, wait = await _asked(route, asked, send, draw, wait_s)
        if result.state == "works":
            admission.answered()
        elif failure is not None and result.broken:
            admission.failed(failure, wait)
        return result
    finally:
        admission.released()  # no effect where there was a verdict


async def _asked(route: Route, asked: Route, send: Send, draw: bool, wait_s: float) -> tuple[Result, Failure | None, float | None]:
    """What the call to `asked` tells of `route`, the failure that it met, and the seconds of a Retry-After."""
    call = _call(asked, draw)
    try:
        async with asyncio.timeout(min(wait_s, route.provider.timeout_s)):
            reply, failure = await opened(call, await send(call, asked))
            if reply.status == 401:  # said also while a service's own key store is down: ask once more
                reply, failure = await opened(call, await send(call, asked))
            size = len(await reply.whole())
    except TimeoutError:
        failure = Failure("transport", DeadlineExceeded.status, f"{route.provider.base_url} did not answer in time")
        return _result(route, "fails", failure.message, failure.kind), failure, None
    except SensoriumError as error:
        failure = Failure("transport", error.status, error.message)
        return _result(route, "fails", failure.message, failure.kind), failure, None
    if route.dialect == "fal" and failure is not None and failure.status == 404 and reply.headers.get("content-type", "").startswith(JSON):
        return _result(route, "works", f"{REACHED}; nothing was made"), None, None
    if failure is not None:
        return _refused(route, draw, failure), failure, retry_after(reply)
    return _result(route, "works", f"it answered ({size} bytes)"), None, None


def _call(route: Route, draw: bool) -> Call:
    if route.dialect == "fal" and not (draw and route.modality == "image"):
        operation = f"{fal.endpoint(route.upstream)}/requests/{NO_REQUEST}/status"
        return Call("doctor", route.upstream, route.modality, ("fal",), operation, {}, method="GET")
    method, operation, members = CALLS[route.modality]
    if route.dialect == "anthropic":
        method, operation = ("GET", ANTHROPIC_MODELS) if route.open else (method, ANTHROPIC_CHAT)
    if draw and route.modality == "image":
        members = DRAWN
    body = jsonbody.members(json.dumps(members).encode())
    form = (Part("file", _silence(), "silence.wav", "audio/wav"),) if route.modality == "transcribe" else None
    operation = route.upstream if route.dialect == "genai" else operation
    return Call("doctor", route.upstream, route.modality, (route.dialect,), operation, body, method=method, form=form)


def _silence() -> bytes:
    """A tenth of a second, as WAV, 16 kHz mono."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(3200))
    return file.getvalue()


def _refused(route: Route, draw: bool, failure: Failure) -> Result:
    if route.modality == "speech" and failure.status in (404, 405):
        return _result(route, "works", f"{REACHED}; it lists no voices")
    if route.modality in UNUSUAL and failure.kind == "semantic" and not draw:
        return _result(route, "works", f"{REACHED}; nothing was made")
    if route.open and failure.kind == "model_unavailable":
        return _result(route, "not called", f"it does not serve {USUAL.get(route.modality, 'this')}; nothing else is known to try")
    key = route.provider.credential.name
    cure = f"; replace the key {key}" if failure.kind == "auth" and key else ""
    return _result(route, "fails", f"{failure.status} {failure.kind}: {failure.message}{cure}", failure.kind)


def _result(route: Route, state: State, detail: str, error: FailureClass | None = None) -> Result:
    return Result(route.provider.name, route.modality, "any name" if route.open else route.id, state, detail, error)
