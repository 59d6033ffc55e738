"""OpenAI's picture calls on routes that speak genai: one call in, one genai call per picture out, one reply of OpenAI's shape back.

It stands at the transport's side of the walk, so that such a route fails over, is counted and recorded like any other. Pictures that
were made before one failed are kept; the reply then says how many are missing, and why.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Final

from sensorium.errors import SensoriumError, Unprocessable, UpstreamFailed
from sensorium.exchange import JSON
from sensorium.routing.call import ANY_MODEL, Call, Reply, Route
from sensorium.wire import edits, nvidia, nvidia_models, translate
from sensorium.wire.failure import understand
from sensorium.wire.translate import ImagesCall

GENERATIONS: Final = "images/generations"
EDITS: Final = "images/edits"
DEFAULT_SIZE: Final = "1024x1024"  # OpenAI's, for callers who name neither model nor size
LOCAL_FORMATS: Final = ("png", "jpeg")
Send = Callable[[Call, Route], Awaitable[Reply]]


def translated(call: Call, route: Route) -> bool:
    """Whether the call is OpenAI's and the route is not."""
    return route.dialect in ("genai", "fal") and call.operation.partition("?")[0] in (GENERATIONS, EDITS)


def calls(call: Call, route: Route) -> int:
    """How many calls the route's provider gets for this one. Raises Unprocessable."""
    if not translated(call, route):
        return 1
    fields = [part for part in call.form or () if part.name == "n"]
    return translate.count(edits.members(fields) if call.form is not None else call.members)


async def drawn(call: Call, route: Route, send: Send) -> Reply:
    """The pictures of `call`, drawn or edited one after the other through `send`.

    Raises Unprocessable for what the model's rules forbid, before anything is sent, and for a filtered picture; UpstreamFailed for a
    reply without one; and whatever `send` raises. Once there is a picture, a failure of the next ends the series instead.
    """
    asked = _bodies(call, route)
    inner = replace(call, operation=route.upstream, form=None, changes=(*call.changes, *asked.changes))
    pictures: list[str] = []
    last: Reply | None = None
    short: tuple[str, ...] = ()
    for members in asked.bodies:
        try:
            reply = await send(replace(inner, members=members), route)
            if reply.status >= 400 and last is None:
                return reply
            pictures.append(await _picture(reply))
            last = reply
        except SensoriumError as error:
            if last is None:
                raise
            short = (f"n {len(asked.bodies)} -> {len(pictures)}: {error.message}",)
            break
    assert last is not None  # there is at least one body
    return _reply(last, translate.images_reply(pictures, int(time.time())), short)


def _bodies(call: Call, route: Route) -> ImagesCall:
    seed = secrets.randbelow(nvidia_models.SEED.high) + 1
    if call.operation.startswith(EDITS):
        if route.provider.local:
            raise Unprocessable(f"{route.id} cannot edit pictures; it draws from the prompt alone", param="model")
        found = edits.members(call.form) if call.form is not None else call.members
        asked = edits.to_genai(found, route.id, seed)
    else:
        size = DEFAULT_SIZE if call.model == ANY_MODEL else None
        asked = translate.images_to_genai(call.members, route.id, seed, size=size, formats=LOCAL_FORMATS if route.provider.local else ())
    for members in asked.bodies:
        nvidia_models.check(route.id, {name: raw for name, raw in members.items() if name != "output_format"})
    return asked


async def _picture(reply: Reply) -> str:
    """The base64 of the picture. Raises UpstreamFailed for a refusal or for none."""
    body, provider = await reply.whole(), reply.route.provider.name
    if reply.status >= 400:
        raise UpstreamFailed(f"{provider} answered {reply.status} {understand(reply.status, body).message}".rstrip())
    if reply.status != 200:
        raise UpstreamFailed(f"{provider} answered {reply.status} instead of a picture")
    return nvidia.drawn(body, provider)


def _reply(last: Reply, body: bytes, short: tuple[str, ...]) -> Reply:
    """A reply with `body`; what the last one said about itself stays."""

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    async def close() -> None:
        await last.close()

    said = {name: text for name, text in last.headers.items() if not name.startswith("content-")}
    said |= {"content-type": JSON, "content-length": str(len(body))}
    return replace(last, headers=said, chunks=chunks(), close=close, changes=(*last.changes, *short))
