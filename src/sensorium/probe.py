"""One small real call to a route, sent as the hub sends calls, to learn whether its address and key work.

A token of chat, a word to embed, the list of voices, a tenth of a second of silence to transcribe. A picture is asked for without a
prompt: the service refuses that after it has looked at the key, and so it costs nothing; only on request is one drawn. A list of models
proves nothing: NVIDIA shows it to any key.
"""

from __future__ import annotations

import asyncio
import io
import json
import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from sensorium.errors import SensoriumError
from sensorium.routing.call import Call, Modality, Route
from sensorium.routing.dispatch import Send
from sensorium.routing.opening import opened
from sensorium.wire import jsonbody
from sensorium.wire.failure import Failure
from sensorium.wire.multipart import Part

State = Literal["works", "fails", "off", "not called"]
WAIT_S: Final = 60.0
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
DRAWN: Final = {"prompt": "a red cube on a white table"}
NAMELESS: Final = ("speech", "transcribe")  # in NVIDIA's dialect they name no model
UNUSUAL: Final = ("image", "transcribe")  # asked for so little that a refusal of it is a good answer too


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of one route. `detail` is a sentence."""

    provider: str
    modality: str
    model: str
    state: State
    detail: str

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


async def probed(routes: Sequence[Route], send: Send, draw: bool) -> list[Result]:
    """What one call to each route tells. `draw` lets image routes make a picture, which costs quota."""
    return list(await asyncio.gather(*(_probed(route, send, draw) for route in routes)))


async def _probed(route: Route, send: Send, draw: bool) -> Result:
    found = known(route)
    if found.state == "off":
        return found
    if route.modality not in CALLS:
        return _result(route, "not called", f"{found.detail}; there is no small call for {route.modality}")
    if route.open and not (route.modality in USUAL or (route.dialect == "nvidia" and route.modality in NAMELESS)):
        return _result(route, "not called", f"{found.detail}; any model name goes on, list one under models to have it tried")
    asked = replace(route, upstream=USUAL[route.modality]) if route.open and route.modality in USUAL else route
    call = _call(asked, draw)
    try:
        async with asyncio.timeout(min(WAIT_S, route.provider.timeout_s)):
            reply, failure = await opened(await send(call, asked), call.method)
            size = len(await reply.whole())
    except TimeoutError:
        return _result(route, "fails", f"{route.provider.base_url} did not answer in time")
    except SensoriumError as error:
        return _result(route, "fails", error.message)
    if failure is not None:
        return _refused(route, draw, failure)
    return _result(route, "works", f"it answered ({size} bytes)")


def _call(route: Route, draw: bool) -> Call:
    method, operation, members = CALLS[route.modality]
    if draw and route.modality == "image":
        members = DRAWN
    body = jsonbody.members(json.dumps(members).encode())
    form = (Part("file", _silence(), "silence.wav", "audio/wav"),) if route.modality == "transcribe" else None
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
    return _result(route, "fails", f"{failure.status} {failure.kind}: {failure.message}{cure}")


def _result(route: Route, state: State, detail: str) -> Result:
    return Result(route.provider.name, route.modality, "any name" if route.open else route.id, state, detail)
