"""Pictures by the catalogue's models as fal's apps answer them: drawn one after the other, stored or embedded.

A genai or fal route gets the picture's size and steps as they are asked for; an OpenAI route the size alone, and what it lacks is named.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from sensorium import failpoints
from sensorium.apps.answers import EVENTS, answered, asking
from sensorium.apps.app import Output, Task
from sensorium.apps.files import Files, Shelf, shelf
from sensorium.apps.limits import check
from sensorium.errors import SensoriumError, UpstreamFailed, UpstreamRefused
from sensorium.routing import byline
from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.dispatch import Dispatch
from sensorium.routing.pictures import GENERATIONS
from sensorium.wire import dataurl, media, nvidia, picture, sse
from sensorium.wire.fal_errors import Refused, detail
from sensorium.wire.fal_input import blamed
from sensorium.wire.nvidia_models import SEED

MOST_BYTES: Final = 64 * 1024 * 1024  # of one reply
STEP_BYTES: Final = 200  # of an event that tells a step
PARAMETERS: Final = {
    "prompt": "prompt", "width": "image_size", "height": "image_size", "size": "image_size", "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale", "seed": "seed", "output_format": "output_format", "image_size": "image_size",
    "num_inference_steps": "num_inference_steps", "guidance_scale": "guidance_scale",
}  # fmt: skip
SIZES: Final = {
    "square_hd": (1024, 1024), "square": (512, 512), "portrait_4_3": (768, 1024), "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768), "landscape_16_9": (1024, 576),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be drawn. None is the model's own choice; `own` are members for fal's routes alone, `more` for every route."""

    model: str
    prompt: str
    size: tuple[int, int] | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    count: int = 1
    kind: str = "jpeg"
    embedded: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn picture: its bytes, or where it is; the seed that it was really drawn with; whether a filter took it for unsafe."""

    data: bytes | str
    seed: int | None
    flagged: bool


async def drawn(dispatch: Dispatch, files: Files, task: Task, wish: Wish, clock: Callable[[], float] = time.monotonic) -> Output:
    """All pictures of a wish as an output with `images`. Raises Refused for what no route here can draw, and what a dispatch raises."""
    begun = clock()
    seed = wish.seed if wish.seed is not None else 1 + secrets.randbelow(SEED.high)
    first = _call(dispatch, task, wish, seed)
    pictures, headers = list[Picture](), dict[str, str]()
    try:
        for number in range(wish.count):
            if wish.count > 1:
                task.log(f"picture {number + 1} of {wish.count}")
            made, told = await _answer(dispatch, _seeded(first, 1 + (seed - 1 + number) % SEED.high), task)
            headers = headers or told
            pictures.append(made)
    except SensoriumError as error:
        raise blamed(error, PARAMETERS) from None
    failpoints.reach("result_read")
    took = clock() - begun
    async with shelf(files, task) as place:
        images = [await _placed(one, wish, place, f"picture-{number}") for number, one in enumerate(pictures, 1)]
        drawn_with = pictures[0].seed
        body = {
            "images": images,
            "timings": {"inference": round(took, 6)},
            "seed": seed if drawn_with is None else drawn_with,
            "has_nsfw_concepts": [one.flagged for one in pictures],
            "prompt": wish.prompt,
        }
        return Output(body, tuple(place.keys), headers)


def _call(dispatch: Dispatch, task: Task, wish: Wish, seed: int) -> Call:
    """The call for one picture, in the words of whoever would be asked first."""
    made = {"prompt": wish.prompt, "seed": seed, "steps": wish.steps, "cfg_scale": wish.guidance, **wish.more}
    call = asking(task, wish.model, "image", ("openai", "genai", "fal"), GENERATIONS, made)
    routes = dispatch.plan(call)
    if routes[0].dialect == "openai":
        sized = {"size": f"{wish.size[0]}x{wish.size[1]}"} if wish.size else {}
        return replace(call, dialects=("openai",), members=call.members | _members(sized), extensions=media.EXTENSIONS)
    routes = tuple(route for route in routes if route.dialect != "openai")
    call = replace(call, dialects=("genai", "fal"), operation=wish.model)
    faults = check(wish.model, made, wish.size, routes)
    if faults and any(route.dialect == "fal" for route in routes):
        call, faults = replace(call, dialects=("fal",)), []
        routes = tuple(route for route in routes if route.dialect == "fal")
    if faults:
        raise Refused(faults)
    # Our own engines tell every step, unless a deadline has to hold for the whole answer.
    stepwise = all(route.dialect == "genai" and route.provider.local for route in routes) and dispatch.laid(call).deadline_s is None
    return replace(call, members=call.members | _members(_sides(wish) | _own(wish, routes)), stream=stepwise)


async def _answer(dispatch: Dispatch, call: Call, task: Task) -> tuple[Picture, dict[str, str]]:
    """One picture, and who drew it. What breaks off between two steps is asked for once more in one piece, where whoever answers may
    change and every error keeps its status; but whoever runs the queue counts for itself what has ended an engine."""
    reply = await answered(dispatch, call)
    try:
        return await _drawn(reply, task), byline.origin(reply)
    except (UpstreamFailed, UpstreamRefused) as error:
        if not call.stream or (error.cause == "death" and not dispatch.laid(call).repeatable):
            raise
    reply = await answered(dispatch, replace(call, stream=False))
    return await _drawn(reply, task), byline.origin(reply)


def _sides(wish: Wish) -> dict[str, Any]:
    return {"width": wish.size[0], "height": wish.size[1]} if wish.size else {}


def _own(wish: Wish, routes: Sequence[Route]) -> dict[str, Any]:
    """What only some services understand: sent where all of the routes do."""
    fals = all(route.dialect == "fal" for route in routes)
    formatted = all(route.dialect == "fal" or route.provider.local for route in routes)
    return ({**wish.own} if fals else {}) | ({"output_format": wish.kind} if formatted else {})


def _seeded(call: Call, seed: int) -> Call:
    return replace(call, members=call.members | _members({"seed": seed}))


def _members(given: Mapping[str, Any]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in given.items()}


async def _drawn(reply: Reply, task: Task) -> Picture:
    provider = reply.route.provider.name
    events = reply.headers.get("content-type", "").startswith(EVENTS)
    body = await _last(reply, task) if events else await reply.whole(MOST_BYTES)
    if reply.route.dialect == "openai":
        return _of(media.pictures(body, provider)[0], provider)
    found = nvidia.artifact(body)
    if found.base64 is None and found.filtered:
        raise Refused([detail("prompt", "the model's content filter refused this picture", "content_policy_violation")])
    return replace(_of({"base64": found.base64 or nvidia.drawn(body, provider)}, provider), seed=_seed(body), flagged=found.filtered)


async def _last(reply: Reply, task: Task) -> bytes:
    """The answer at the end of a drawing's steps, each of which is logged. The reply is closed in any case."""
    frames, last = sse.Frames(), b""
    try:
        async for chunk in reply.chunks:
            for last in frames.feed(chunk):
                if (done := _step(last)) is not None:
                    task.log(f"step {done[0]} of {done[1]}")
    finally:
        await reply.close()
    return last


def _step(event: bytes) -> tuple[int, int] | None:
    """The numbers of a step's event; None for the answer."""
    if len(event) > STEP_BYTES:
        return None
    try:
        told = msgspec.json.decode(event, type=dict[str, int])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return (told["step"], told["steps"]) if told.keys() == {"step", "steps"} else None


def _of(made: Mapping[str, Any], provider: str) -> Picture:
    if "base64" not in made:
        return Picture(str(made["url"]), None, False)
    try:
        return Picture(base64.b64decode(made["base64"], validate=True), None, False)
    except (binascii.Error, ValueError):
        raise UpstreamFailed(f"{provider} answered with a picture whose base64 is damaged") from None


def _seed(body: bytes) -> int | None:
    """The seed that a genai reply names."""
    found = msgspec.json.decode(body)
    listed = found.get("artifacts") if isinstance(found, dict) else None
    first = listed[0] if isinstance(listed, list) and listed else None
    seed = first.get("seed") if isinstance(first, dict) else None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


async def _placed(made: Picture, wish: Wish, place: Shelf, name: str) -> dict[str, Any]:
    """The picture as a file object. One that a provider only links to stays where it is."""
    if isinstance(made.data, str):
        return {"url": made.data, "content_type": f"image/{wish.kind}"}
    wanted = f"image/{wish.kind}"
    data = await asyncio.to_thread(picture.convert, made.data, wanted)
    width, height = await asyncio.to_thread(picture.sides, data)
    if wish.embedded:
        url = await asyncio.to_thread(dataurl.build, wanted, data)
        told = {"url": url, "content_type": wanted, "file_name": None, "file_size": len(data)}
    else:
        told = await place.put(data, wanted, name)
    return {**told, "width": width, "height": height}
