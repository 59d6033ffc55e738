"""The engine's HTTP side in memory: a vision model that follows a script, and a small real drawing model."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensorium.engines.diffusion_vlm.answering import Delta, Finished, Timings, Usage
from sensorium.engines.diffusion_vlm.ask import Ask
from sensorium.engines.diffusion_vlm.config import SideConfig
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.drawing import Draw, Drawing, Step
from sensorium.engines.endpoint import EngineApp
from sensorium.engines.flow_image.engine import FlowImage
from sensorium.engines.hosted import Hosted, Place
from sensorium.engines.lane import Lane
from sensorium.engines.orders import ModelOrder
from sensorium.errors import Cancelled, Unprocessable, UpstreamFailed
from sensorium.wire import dataurl, sse
from tests.engines.asgi import PATIENCE, Call, ask
from tests.engines.flow_image import tiny

TOKEN = "a-token-of-this-test"
AUTH = {"authorization": f"Bearer {TOKEN}"}
CHAT, DRAW = "/v1/chat/completions", "/v1/genai/sensorium/tiny-flow"
USAGE, TIMINGS = Usage(40, 7, 5, 1, 4, 1, 0, 0), Timings(0.5, 0.1, 0.1, 0.0, 0.2, 0.05)
QUESTION: dict[str, Any] = {"model": "sensorium/script", "messages": [{"role": "user", "content": "What?"}]}
CUBE = {"prompt": "a red cube on a white table", "seed": 5, "steps": 2}


class Script(DiffusionVLM):
    """Answers with given pieces, one for each permission; remembers what it was asked and how far it got."""

    def __init__(self, *pieces: str, reason: str = "stop", error: Exception | None = None) -> None:
        self.name, self.scope, self._side, self.shared = "script", "synthetic-scenes", SideConfig(), False
        self.pieces, self.reason, self.error = pieces, reason, error
        self.asked: list[Ask] = []
        self.made, self.ended = 0, threading.Event()
        self.go = threading.Semaphore(100)

    def see(self, picture: Image.Image) -> Any:
        return np.asarray(picture.convert("RGB"))

    def prepare(self, ask: Ask, cancelled: Callable[[], bool] = lambda: False) -> Any:
        return ask

    def answer(self, ask: Any, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Delta | Finished]:
        self.asked.append(ask)
        try:
            for piece in self.pieces:
                assert self.go.acquire(timeout=PATIENCE)
                if cancelled():
                    raise Cancelled("told to stop")
                self.made += 1
                yield Delta(piece)
            if self.error is not None:
                raise self.error
            yield Finished(self.reason, USAGE, TIMINGS)
        finally:
            self.ended.set()


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> FlowImage:
    return FlowImage.load(tiny.write(tmp_path_factory.mktemp("models") / "tiny-flow"))


def serve(*models: DiffusionVLM | FlowImage, **options: Any) -> EngineApp:
    lane = options.pop("lane", Lane("cpu"))
    return EngineApp(
        [hosted(model).ready(model, lane, Place("numpy", "float32", 1, 640)) for model in models], options.pop("token", TOKEN), **options
    )


def hosted(model: DiffusionVLM | FlowImage, **order: Any) -> Hosted:
    return Hosted(ModelOrder(path=model.name, **order), "diffusion_vlm" if isinstance(model, DiffusionVLM) else "flow_image")


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 3 * PATIENCE))


def post(app: EngineApp, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[Call, Any]:
    """A whole call with its JSON answer."""

    async def call() -> tuple[Call, bytes]:
        return await ask(app, "POST", path, body, AUTH | (headers or {}))

    head, data = asyncio.run(call())
    return head, json.loads(data)


def frames(data: bytes) -> list[Any]:
    lines = [sse.data(line) for line in data.decode().split("\n")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines if line]


def test_a_whole_answer() -> None:
    model = Script("A red ", "cube.")
    head, reply = post(serve(model), CHAT, QUESTION, {"x-request-id": "call-7"})
    assert (head.status, head.headers["x-request-id"], head.headers["x-sensorium-model"]) == (200, "call-7", "sensorium/script")
    assert head.headers["x-sensorium-scope"] == "synthetic-scenes"
    assert (reply["object"], reply["model"], reply["id"]) == ("chat.completion", "sensorium/script", "chatcmpl-call-7")
    choice = reply["choices"][0]
    assert (choice["message"], choice["finish_reason"]) == ({"role": "assistant", "content": "A red cube."}, "stop")
    usage = reply["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"], usage["num_function_evals"]) == (40, 7, 47, 5)
    assert usage["forwards"] == {"prefill": 1, "denoise": 4, "write": 1, "draft": 0, "verify": 0}
    assert set(reply["timings"]) == {
        *("total_time", "image_validation_time", "preprocessing_time", "gpu_transfer_time", "generation_time", "decode_time")
    }
    assert model.asked == [Ask([{"role": "user", "content": [{"type": "text", "text": "What?"}]}])]


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_has_role_pieces_reason_usage_and_end(usage: bool) -> None:
    body = QUESTION | {"stream": True} | ({"stream_options": {"include_usage": True}} if usage else {})

    async def test() -> None:
        head, data = await ask(serve(Script("A red ", "cube.", reason="length")), "POST", CHAT, body, AUTH)
        assert head.headers["content-type"].startswith("text/event-stream")
        assert data.endswith(sse.DONE)
        found = frames(data)[:-1]
        last = found.pop() if usage else None
        assert [frame["choices"][0]["delta"] for frame in found] == [
            *({"role": "assistant", "content": ""}, {"content": "A red "}, {"content": "cube."}, {})
        ]
        assert [frame["choices"][0]["finish_reason"] for frame in found] == [None, None, None, "length"]
        assert len({(frame["id"], frame["model"], frame["object"]) for frame in found}) == 1
        assert all(("usage" in frame) == usage for frame in found)
        if last is not None:
            assert (last["choices"], last["usage"]["total_tokens"]) == ([], 47)

    run(test())


def test_pieces_are_sent_when_they_are_made() -> None:
    async def test() -> None:
        model = Script("one", "two")
        model.go = threading.Semaphore(0)
        call = Call(serve(model), "POST", CHAT, QUESTION | {"stream": True}, AUTH)
        model.go.release()
        await call.begun()
        await call.chunk()
        assert b"one" in (await call.chunk() or b"")
        assert model.made == 1
        model.go.release()
        assert b"two" in (await call.chunk() or b"")
        assert (await call.rest()).endswith(sse.DONE)

    run(test())


def test_hanging_up_in_mid_stream_stops_the_work() -> None:
    async def test() -> None:
        model, lane = Script(*["piece"] * 50), Lane("cpu")
        model.go = threading.Semaphore(0)
        app = serve(model, lane=lane)
        call = Call(app, "POST", CHAT, QUESTION | {"stream": True}, AUTH)
        model.go.release()
        await call.begun()
        await call.hang_up()
        model.go.release(100)
        assert await asyncio.to_thread(model.ended.wait, PATIENCE)
        await lane.run(lambda cancelled: None)
        assert model.made <= 2
        _, counters = await ask(app, "GET", "/v1/lane", headers=AUTH)
        now, ended = {"running": 0, "waiting": 0}, {"finished": 1, "cancelled": 1, "failed": 0, "refused": 0}
        told = {"device": "cpu", "limit": 32, **now, **ended}
        assert json.loads(counters) == told | {"lanes": [told]}

    run(test())


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_by_the_model_still_has_its_status(stream: bool) -> None:
    model = Script(error=Unprocessable("too long", param="messages"))
    head, reply = post(serve(model), CHAT, QUESTION | {"stream": stream})
    assert (head.status, reply["error"]["message"], reply["error"]["param"]) == (422, "too long", "messages")


@pytest.mark.parametrize(("error", "says"), [(UpstreamFailed("broke"), "broke"), (ZeroDivisionError("secret inside"), "the engine failed")])
def test_a_failure_in_mid_stream_is_an_event_without_an_end_mark(error: Exception, says: str) -> None:
    async def test() -> None:
        _, data = await ask(serve(Script("one", error=error)), "POST", CHAT, QUESTION | {"stream": True}, AUTH)
        found = frames(data)
        assert says in found[-1]["error"]["message"]
        assert "[DONE]" not in found
        assert b"secret inside" not in data

    run(test())


def test_all_parameters_reach_the_model() -> None:
    model = Script("x")
    given = {"max_tokens": 64, "stop": "END", "temperature": 0.5, "seed": 9, "mode": "ar", "threshold": 0.7, "block_length": 16, "steps": 8}
    assert post(serve(model), CHAT, QUESTION | given)[0].status == 200
    asked = model.asked[0]
    assert (asked.max_tokens, asked.stop, asked.temperature, asked.seed) == (64, ("END",), 0.5, 9)
    assert (asked.mode, asked.threshold, asked.block_length, asked.steps) == ("ar", 0.7, 16, 8)


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"max_completion_tokens": 12}, "max_tokens", 12),
        ({"max_completion_tokens": 12, "max_tokens": 12}, "max_tokens", 12),
        ({"max_tokens": None, "temperature": None, "seed": None, "stop": None, "n": 1}, "max_tokens", 512),
        ({"num_inference_steps": 256, "max_tokens": 64}, "steps", 256),
        ({"threshold": None}, "threshold", None),
        ({"stop": ["a", "b"]}, "stop", ("a", "b")),
    ],
)
def test_other_spellings(given: dict[str, Any], name: str, value: Any) -> None:
    model = Script("x")
    assert post(serve(model), CHAT, QUESTION | given)[0].status == 200
    assert getattr(model.asked[0], name) == value


def test_fields_without_effect_are_named() -> None:
    head, _ = post(serve(Script("x")), CHAT, QUESTION | {"top_p": 0.9, "tools": [], "logit_bias": None, "user": "me"})
    assert head.headers["x-sensorium-ignored"] == "top_p, tools"


def test_members_without_effect_deeper_inside_are_named_once() -> None:
    parts = [{"type": "image_url", "image_url": {"url": picture("red"), "detail": "high"}}]
    messages = [{"role": "user", "name": name, "content": parts} for name in ("Ann", "Bob")]
    given = {"messages": messages, "stream_options": {"include_usage": None, "include_obfuscation": True}}
    head, _ = post(serve(Script("x")), CHAT, QUESTION | given)
    assert head.headers["x-sensorium-ignored"] == "stream_options.include_obfuscation, messages.name, image_url.detail"


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"n": 2}, 422, "n"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"max_tokens": True}, 422, "max_tokens"),
        ({"max_tokens": "many"}, 422, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 422, "max_tokens"),
        ({"steps": 10**9}, 422, "num_inference_steps"),
        ({"threshold": 2}, 422, "threshold"),
        ({"mode": "magic"}, 422, "mode"),
        ({"stop": ""}, 422, "stop"),
        ({"stop": ["a"] * 5}, 422, "stop"),
        ({"stream": "yes"}, 422, "stream"),
        ({"stream_options": 1}, 422, "stream_options"),
        ({"stream_options": {"include_usage": "false"}}, 422, "stream_options"),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"content": "hi"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, 400, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "messages[0].content[0]"),
        ({"model": "sensorium/other"}, 404, "model"),
        ({"model": "../etc"}, 400, "model"),
    ],
)
def test_what_is_wrong_with_a_chat_call_is_named(change: dict[str, Any], status: int, param: str) -> None:
    model = Script("x")
    head, reply = post(serve(model), CHAT, QUESTION | change)
    assert (head.status, reply["error"]["param"]) == (status, param), reply
    assert model.asked == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": [{"role": "user", "content": "\xff"}]}'])
def test_bodies_that_are_no_json_object(body: bytes) -> None:
    head, reply = post(serve(Script("x")), CHAT, body)
    assert (head.status, reply["error"]["code"]) == (400, "invalid_request")


def picture(colour: str) -> str:
    out = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(out, "PNG")
    return dataurl.build("image/png", out.getvalue())


def test_pictures_and_turns_reach_the_model_in_order() -> None:
    model = Script("x")
    messages = [
        {"role": "developer", "content": "Be short."},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": picture("red"), "detail": "low"}}, {"type": "text", "text": "1"}],
        },
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": [{"type": "text", "text": "2"}, {"type": "image_url", "image_url": picture("blue")}]},
    ]
    head, _ = post(serve(model), CHAT, QUESTION | {"messages": messages, "model": "*"})
    assert head.status == 200
    asked = model.asked[0]
    text = lambda words: {"type": "text", "text": words}  # noqa: E731
    assert asked.messages == [
        {"role": "system", "content": [text("Be short.")]},
        {"role": "user", "content": [{"type": "image"}, text("1")]},
        {"role": "assistant", "content": [text("red")]},
        {"role": "user", "content": [text("2"), {"type": "image"}]},
    ]
    assert [np.asarray(image)[0, 0].tolist() for image in asked.images] == [[255, 0, 0], [0, 0, 255]]


@pytest.mark.parametrize(
    ("url", "code"),
    [("data:text/plain;base64,aGk=", "invalid_image"), ("http://127.0.0.1:9/a.png", "address_refused"), ("ftp://x/a", "address_refused")],
)
def test_a_picture_that_cannot_be_used_names_its_part(url: str, code: str) -> None:
    content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": url}}]
    head, reply = post(serve(Script("x")), CHAT, QUESTION | {"messages": [{"role": "user", "content": content}]})
    error = reply["error"]
    assert (head.status, error["code"], error["param"]) == (400, code, "messages[0].content[1]")


LOOK = QUESTION | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture("red")}}]}]}


class Looking(Script):
    """Looks at a picture when told to."""

    def __init__(self) -> None:
        super().__init__("x")
        self.looking, self.look, self.looks = threading.Event(), threading.Event(), 0

    def see(self, picture: Image.Image) -> Any:
        self.looks += 1
        self.looking.set()
        assert self.look.wait(PATIENCE)
        return super().see(picture)


def test_a_call_is_admitted_before_its_pictures_are_loaded() -> None:
    async def test() -> None:
        model, lane = Looking(), Lane("cpu", limit=2)
        app = serve(model, lane=lane)
        calls = [Call(app, "POST", CHAT, LOOK, AUTH) for _ in range(2)]
        assert await asyncio.to_thread(model.looking.wait, PATIENCE)
        for _ in range(3):
            refused, body = await ask(app, "POST", CHAT, LOOK, AUTH)
            assert (refused.status, json.loads(body)["error"]["code"]) == (429, "busy")
        assert (model.looks, lane.counters.waiting, lane.counters.refused) == (1, 2, 3)
        await calls.pop().hang_up()
        model.look.set()
        assert (await calls.pop().begun()).status == 200
        assert (model.looks, lane.counters.waiting) == (1, 0)
        assert (await ask(app, "POST", CHAT, LOOK, AUTH))[0].status == 200

    run(test())


def test_what_a_model_refuses_costs_no_look_at_a_picture() -> None:
    model = Looking()
    for change, status in (({"max_tokens": 0}, 422), ({"model": "sensorium/other"}, 404)):
        assert post(serve(model), CHAT, LOOK | change)[0].status == status
    assert model.looks == 0


def test_the_deadline_counts_while_pictures_are_loaded() -> None:
    async def test() -> None:
        model, lane = Looking(), Lane("cpu")
        late, _ = await ask(serve(model, lane=lane, deadline_s=0.02), "POST", CHAT, LOOK, AUTH)
        assert (late.status, lane.counters.waiting, model.asked) == (504, 0, [])
        model.look.set()

    run(test())


@pytest.mark.parametrize("stream", [False, True])
def test_an_answered_call_is_not_logged_as_hung_up(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        call, data = await ask(serve(Script("one", "two")), "POST", CHAT, QUESTION | {"stream": stream}, AUTH)
        assert (call.status, b"two" in data) == (200, True)

    with caplog.at_level("INFO"):
        run(test())
    assert "hung up" not in caplog.text


def test_pictures_share_one_pixel_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorium.wire.decoding.PIXEL_CAP", 40)
    parts = [{"type": "image_url", "image_url": {"url": picture("red")}}] * 2
    head, reply = post(serve(Script("x")), CHAT, QUESTION | {"messages": [{"role": "user", "content": parts}]})
    assert (head.status, reply["error"]["param"]) == (400, "messages[0].content[1]")


def test_a_drawing(flow: FlowImage) -> None:
    head, reply = post(serve(flow), DRAW, CUBE)
    artifact = reply["artifacts"][0]
    assert (head.status, artifact["finishReason"], artifact["seed"]) == (200, "SUCCESS", 5)
    assert head.headers["x-sensorium-model"] == "sensorium/tiny-flow"
    assert head.headers["x-sensorium-caption"] == flow.draw(Draw(CUBE["prompt"], 5, 2)).caption
    assert "x-sensorium-ignored" not in head.headers
    with Image.open(io.BytesIO(base64.b64decode(artifact["base64"]))) as image:
        assert (image.format, image.size) == ("JPEG", (16, 16))


def test_a_png_holds_the_very_pixels(flow: FlowImage) -> None:
    _, reply = post(serve(flow), DRAW, CUBE | {"output_format": "png", "width": 32, "height": 20, "steps": 2.0, "cfg_scale": 3})
    with Image.open(io.BytesIO(base64.b64decode(reply["artifacts"][0]["base64"]))) as image:
        wish = Draw(str(CUBE["prompt"]), 5, 2, guidance=3.0, width=32, height=20)
        assert (image.format, image.tobytes()) == ("PNG", flow.draw(wish).image.tobytes())


@pytest.mark.parametrize("given", [{"seed": 0}, {"seed": None}])
def test_a_random_seed_is_told_and_gives_the_picture_again(flow: FlowImage, given: dict[str, Any]) -> None:
    app = serve(flow)
    body = {**CUBE, **given, "output_format": "png"}
    first, second = (post(app, DRAW, body)[1]["artifacts"][0] for _ in range(2))
    assert first["seed"] != second["seed"]
    assert post(app, DRAW, body | {"seed": first["seed"]})[1]["artifacts"][0]["base64"] == first["base64"]


def test_unknown_words_are_told_in_a_header(flow: FlowImage) -> None:
    head, _ = post(serve(flow), DRAW, CUBE | {"prompt": "a grässlich red cube on a white table, so shiny"})
    assert "shiny" in head.headers["x-sensorium-ignored"]
    assert head.headers["x-sensorium-ignored"].isascii()


def test_defaults_written_out_are_accepted(flow: FlowImage) -> None:
    given = {"cfg_scale": 0, "samples": 1, "mode": "base", "image": None, "width": 16, "height": 16}
    assert post(serve(flow), DRAW, CUBE | given)[0].status == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        *(({"steps": steps}, "steps") for steps in (0, -1, 51, 10**9, "four", 2.5, True)),
        *(({"seed": seed}, "seed") for seed in (-1, 2**32, "x", "", False, 1.5)),
        *(({"cfg_scale": scale}, "cfg_scale") for scale in (-1, 99, "strong", "", False)),
        ({"width": 8}, "width"),
        ({"width": "wide"}, "width"),
        ({"height": 0}, "height"),
        ({"height": 99999}, "height"),
        ({"samples": 2}, "samples"),
        ({"samples": True}, "samples"),
        ({"mode": "canny"}, "mode"),
        ({"image": "data:"}, "image"),
        ({"output_format": "gif"}, "output_format"),
        ({"aspect_ratio": "16:9"}, "aspect_ratio"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "my cat"}, "prompt"),
    ],
)
def test_what_is_wrong_with_a_drawing_call_is_named(flow: FlowImage, change: dict[str, Any], param: str) -> None:
    head, reply = post(serve(flow), DRAW, CUBE | change)
    assert (head.status, reply["error"]["param"]) == (422, param), reply
    assert reply["detail"] == reply["error"]["message"]


def test_not_a_number_is_not_json(flow: FlowImage) -> None:
    head, reply = post(serve(flow), DRAW, b'{"prompt": "a red cube", "steps": NaN}')
    assert head.status == 400
    assert "detail" in reply


def test_an_unknown_model_lists_those_there_are(flow: FlowImage) -> None:
    head, reply = post(serve(flow), "/v1/genai/sensorium/other", CUBE)
    assert (head.status, reply["error"]["code"]) == (404, "model_not_found")
    assert "sensorium/tiny-flow" in reply["detail"]


class SlowFlow(FlowImage):
    """Draws when told to, and remembers whether it was cancelled."""

    def __init__(self, model: FlowImage) -> None:
        self.__dict__.update(model.__dict__)
        self.begun, self.go, self.cancelled = threading.Event(), threading.Event(), threading.Event()

    def steps(self, wish: Draw, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Step | Drawing]:
        self.begun.set()
        assert self.go.wait(PATIENCE)
        if cancelled():
            self.cancelled.set()
        yield from super().steps(wish, cancelled)


def test_hanging_up_in_mid_image_stops_the_work(flow: FlowImage) -> None:
    async def test() -> None:
        model, lane = SlowFlow(flow), Lane("cpu")
        call = Call(serve(model, lane=lane), "POST", DRAW, CUBE, AUTH)
        assert await asyncio.to_thread(model.begun.wait, PATIENCE)
        await call.hang_up()
        model.go.set()
        assert await asyncio.to_thread(model.cancelled.wait, PATIENCE)
        await lane.run(lambda cancelled: None)
        assert (lane.counters.cancelled, lane.counters.finished) == (1, 1)

    run(test())


def test_a_full_queue_is_429_with_a_time_and_a_deadline_is_504(flow: FlowImage) -> None:
    async def test() -> None:
        model = SlowFlow(flow)
        lane = Lane("cpu", limit=1)
        app = serve(model, lane=lane)
        first = Call(app, "POST", DRAW, CUBE, AUTH)
        assert await asyncio.to_thread(model.begun.wait, PATIENCE)
        second = Call(app, "POST", DRAW, CUBE, AUTH)
        while lane.counters.waiting == 0:
            await asyncio.sleep(0)
        third, body = await ask(app, "POST", DRAW, CUBE, AUTH)
        assert (third.status, json.loads(body)["error"]["code"]) == (429, "busy")
        assert int(third.headers["retry-after"]) >= 1
        model.go.set()
        assert ((await first.begun()).status, (await second.begun()).status) == (200, 200)
        await first.rest()
        await second.rest()
        slow = SlowFlow(flow)
        late, _ = await ask(serve(slow, deadline_s=0.02), "POST", DRAW, CUBE, AUTH)
        assert late.status == 504
        slow.go.set()

    run(test())


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}, {"authorization": TOKEN}, {"authorization": "Bearer ä"}],
)
@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("POST", DRAW), ("GET", "/v1/models"), ("GET", "/v1/lane")])
def test_without_the_token_nothing_is_served(flow: FlowImage, method: str, path: str, headers: dict[str, str]) -> None:
    head, data = asyncio.run(ask(serve(flow), method, path, CUBE, headers))
    assert (head.status, head.headers["www-authenticate"]) == (401, "Bearer")
    assert json.loads(data)["error"]["code"] == "invalid_token"


def test_a_missing_token_is_told_as_missing_in_fals_words() -> None:
    def detail(headers: dict[str, str]) -> str:
        return str(json.loads(asyncio.run(ask(serve(Script("x")), "POST", "/run", {}, headers))[1])["detail"])

    assert detail({}) == "Authorization header is required"
    assert detail({"authorization": "Key wrong"}) == "No user found for Key ID and Secret"


def test_readiness_needs_no_token_and_the_list_names_every_model(flow: FlowImage) -> None:
    app = serve(Script("x"), flow)
    head, data = asyncio.run(ask(app, "GET", "/readyz"))
    assert (head.status, json.loads(data)) == (200, {"status": "ready"})
    _, data = asyncio.run(ask(app, "GET", "/v1/models", headers=AUTH))
    found = {entry["id"]: (entry["modality"], entry["kind"], entry["scope"]) for entry in json.loads(data)["data"]}
    assert found == {
        "sensorium/script": ("chat", "diffusion_vlm", "synthetic-scenes"),
        "sensorium/tiny-flow": ("image", "flow_image", "synthetic-scenes"),
    }


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("POST", "/v1", 404), ("GET", CHAT, 405), ("GET", DRAW, 405)]
)
def test_other_routes_and_methods(flow: FlowImage, method: str, path: str, status: int) -> None:
    head, data = asyncio.run(ask(serve(flow), method, path, headers=AUTH))
    assert head.status == status
    assert head.headers.get("allow") == ("POST" if status == 405 else None)
    assert json.loads(data)["error"]["request_id"] == head.headers["x-request-id"]


def test_a_body_beyond_the_cap_is_413(flow: FlowImage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorium.engines.endpoint.BODY_CAP", 100)
    head, reply = post(serve(flow), DRAW, CUBE | {"prompt": "red " * 50})
    assert (head.status, reply["error"]["code"]) == (413, "body_too_large")


def test_a_request_id_that_is_not_plain_is_replaced() -> None:
    head, _ = post(serve(Script("x")), CHAT, QUESTION, {"x-request-id": "a b\tc"})
    assert head.headers["x-request-id"] != "a b\tc"


def test_a_body_that_is_too_long_is_told_without_a_setting_that_an_engine_does_not_have() -> None:
    head, reply = post(serve(Script("x")), CHAT, b"", {"content-length": str(10**9)})
    assert (head.status, reply["error"]["hint"]) == (413, "send a smaller picture")
