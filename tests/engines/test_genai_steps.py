"""Drawings told step by step over HTTP, by a model that draws when the test says so."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from PIL import Image

from sensorium.engines.drawing import Draw, Drawing, Step
from sensorium.engines.endpoint import EngineApp
from sensorium.engines.hosted import Hosted, Place
from sensorium.engines.lane import Lane
from sensorium.engines.orders import ModelOrder
from sensorium.errors import Cancelled, Unprocessable, UpstreamFailed
from sensorium.wire import sse
from tests.engines.asgi import PATIENCE, Call, ask

DRAW = "/v1/genai/tests/painter"
WISH = {"prompt": "a cube", "seed": 5, "steps": 3, "output_format": "png"}
EVENTS = {"accept": "text/event-stream"}


class Checked:
    caption, ignored = "a cube indeed", ("grässlich",)


class Painter:
    """Draws a blue square. Every step waits for `go`; `fails` comes before the step of that number."""

    name, scope = "tests/painter", None

    def __init__(self, free: bool = True, fails: Exception | None = None, at: int = 0) -> None:
        self.go = threading.Semaphore(1000 if free else 0)
        self.begun, self.ended = 0, threading.Event()
        self.fails, self.at = fails, at

    def check(self, wish: Draw) -> Checked:
        if wish.width == 7:
            raise Unprocessable("width is 7", param="width")
        return Checked()

    def steps(self, wish: Draw, cancelled: Callable[[], bool]) -> Iterator[Step | Drawing]:
        try:
            for number in range(1, int(wish.steps or 4) + 1):
                if cancelled():
                    raise Cancelled("left")
                if self.fails is not None and number == self.at:
                    raise self.fails
                self.begun = number
                assert self.go.acquire(timeout=PATIENCE)
                yield Step(number, int(wish.steps or 4))
            yield Drawing(Image.new("RGB", (8, 8), "blue"), wish.seed, *((Checked.caption), Checked.ignored))
        finally:
            self.ended.set()


def serve(model: Painter, lane: Lane | None = None, **options: Any) -> EngineApp:
    hosted = Hosted(ModelOrder(path="painter", name=model.name), "flux")
    return EngineApp([hosted.ready(model, lane or Lane("cpu"), Place("cpu", "float32"))], "", **options)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 3 * PATIENCE))


def events(data: bytes) -> list[Any]:
    return [json.loads(payload) for payload in sse.Frames().feed(data)]


def test_every_step_is_an_event_and_the_answer_is_the_last() -> None:
    async def test() -> None:
        head, data = await ask(serve(Painter()), "POST", DRAW, WISH, EVENTS)
        assert (head.status, head.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        assert head.headers["x-sensorium-model"] == "tests/painter"
        assert head.headers["x-sensorium-caption"] == "a cube indeed"
        assert head.headers["x-sensorium-ignored"] == "gr%C3%A4sslich"
        *steps, last = events(data)
        assert steps == [{"step": number, "steps": 3} for number in (1, 2, 3)]
        plain, body = await ask(serve(Painter()), "POST", DRAW, WISH)
        assert json.loads(body) == last
        assert plain.headers["content-type"] == "application/json"
        assert plain.headers["x-sensorium-caption"] == "a cube indeed"
        artifact = last["artifacts"][0]
        assert (artifact["seed"], artifact["finishReason"]) == (5, "SUCCESS")
        with Image.open(io.BytesIO(base64.b64decode(artifact["base64"]))) as image:
            assert image.convert("RGB").getpixel((3, 3)) == (0, 0, 255)

    run(test())


def test_a_step_is_told_when_it_is_done() -> None:
    async def test() -> None:
        model = Painter(free=False)
        call = Call(serve(model), "POST", DRAW, WISH, EVENTS)
        model.go.release()
        await call.begun()
        assert events(await call.chunk() or b"") == [{"step": 1, "steps": 3}]
        assert model.begun <= 2
        model.go.release(2)
        assert len(events(await call.rest())) == 3

    run(test())


@pytest.mark.parametrize("headers", [EVENTS, {}])
def test_a_refusal_keeps_its_status(headers: dict[str, str]) -> None:
    async def test() -> None:
        model = Painter()
        head, body = await ask(serve(model), "POST", DRAW, WISH | {"width": 7}, headers)
        assert (head.status, json.loads(body)["error"]["param"], model.begun) == (422, "width", 0)

    run(test())


@pytest.mark.parametrize("at", [1, 3])
def test_a_failure_is_a_status_before_the_first_step_and_an_event_after_it(at: int) -> None:
    async def test() -> None:
        model = Painter(fails=UpstreamFailed("no picture"), at=at)
        head, body = await ask(serve(model), "POST", DRAW, WISH, EVENTS)
        if at == 1:
            assert (head.status, json.loads(body)["error"]["message"]) == (502, "no picture")
            return
        *steps, last = events(body)
        assert (head.status, [one["step"] for one in steps]) == (200, [1, 2])
        assert last["error"]["message"] == "no picture"

    run(test())


def test_hanging_up_between_steps_ends_the_work() -> None:
    async def test() -> None:
        model, lane = Painter(free=False), Lane("cpu")
        call = Call(serve(model, lane), "POST", DRAW, WISH | {"steps": 50}, EVENTS)
        model.go.release()
        await call.begun()
        await call.hang_up()
        model.go.release(100)
        assert await asyncio.to_thread(model.ended.wait, PATIENCE)
        await lane.run(lambda cancelled: None)
        assert (model.begun <= 3, lane.counters.cancelled) == (True, 1)

    run(test())


def test_a_model_that_takes_turns_is_held_until_the_last_event() -> None:
    async def test() -> None:
        model, story = Painter(free=False), list[str]()
        hosted = Hosted(ModelOrder(path="painter", name=model.name), "flux").ready(model, Lane("cpu"), Place("cpu", "float32"))

        @asynccontextmanager
        async def turn() -> Any:
            story.append("held")
            yield model
            story.append("let go")

        hosted.residence = turn
        call = Call(EngineApp([hosted], ""), "POST", DRAW, WISH, EVENTS)
        model.go.release()
        await call.begun()
        assert story == ["held"]
        model.go.release(2)
        await call.rest()
        assert story == ["held", "let go"]

    run(test())
