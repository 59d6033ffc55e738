"""fal's doors of the engine itself: their input held against the published table (diffusion-vlm.md, section 9), what they answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sensorium.engines.diffusion_vlm.ask import Ask
from sensorium.engines.lane import Lane
from sensorium.errors import UpstreamFailed
from sensorium.wire import fal_errors
from tests.engines.asgi import ask
from tests.engines.test_endpoint import AUTH, TIMINGS, Script, frames, picture, post, run, serve

RED = picture("red")
ASKED = {"image_url": RED, "prompt": "What is it?"}
COUNTS = {"prompt_tokens": 40, "completion_tokens": 7, "num_function_evals": 5}


def refused(change: dict[str, Any], path: str = "/run") -> list[dict[str, Any]]:
    """The faults of an input, none of which may cost any work."""
    model = Script("x")
    given = {name: value for name, value in (ASKED | change).items() if value is not ...}
    head, reply = post(serve(model), path, given)
    assert (head.status, model.asked) == (422, []), reply
    assert reply["message"].startswith(str(reply["detail"][0]["loc"][-1]))
    assert head.headers["x-fal-retryable"] == "false"
    return list(reply["detail"])


@pytest.mark.parametrize("path", ["/run", "/run/sensorium/script", "/run/*"])
def test_a_whole_answer(path: str) -> None:
    model = Script("A red ", "cube.")
    head, reply = post(serve(model), path, ASKED, {"x-request-id": "call-7"})
    assert (head.status, head.headers["x-fal-request-id"], head.headers["x-sensorium-model"]) == (200, "call-7", "sensorium/script")
    assert (reply["output"], reply["usage"]) == ("A red cube.", COUNTS)
    assert reply["timings"]["generation_time"] == TIMINGS.generation_time
    assert reply["timings"]["total_time"] >= sum(seconds for name, seconds in reply["timings"].items() if name != "total_time")
    (asked,) = model.asked
    parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    assert asked == Ask([{"role": "user", "content": parts}], asked.images, 512, 256, 32, 0.9, "diffusion")
    assert [image[0, 0].tolist() for image in asked.images] == [[255, 0, 0]]


@pytest.mark.parametrize("path", ["/stream", "/stream/sensorium/script", "/run/sensorium/script/stream", "/run/stream"])
def test_a_stream_grows_and_ends_with_everything(path: str) -> None:
    async def test() -> None:
        head, data = await ask(serve(Script("A red ", "cube.")), "POST", path, ASKED, AUTH)
        assert head.headers["content-type"].startswith("text/event-stream")
        first, second, last = frames(data)
        assert (first, second) == ({"output": "A red "}, {"output": "A red cube."})
        assert (last["output"], last["usage"], set(last)) == ("A red cube.", COUNTS, {"output", "usage", "timings"})

    run(test())


def test_a_failure_in_mid_stream_is_the_last_event() -> None:
    async def test() -> None:
        _, data = await ask(serve(Script("one", error=UpstreamFailed("broke"))), "POST", "/stream", ASKED, AUTH)
        assert frames(data) == [{"output": "one"}, {"error": "broke", "error_type": "runner_server_error"}]

    run(test())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (512, 256, 32, 0.9, "diffusion")),
        ({"max_tokens": 384}, (384, 264, 32, 0.9, "diffusion")),
        ({"max_tokens": 8192, "block_length": 8}, (8192, 1024, 8, 0.9, "diffusion")),
        ({"max_tokens": 64, "inference_steps": 64}, (64, 64, 32, 0.9, "diffusion")),
        ({"num_inference_steps": 32, "inference_steps": 32}, (512, 32, 32, 0.9, "diffusion")),
        ({"max_tokens": 1, "num_inference_steps": 1, "threshold": 0}, (1, 1, 32, 0.0, "diffusion")),
        ({"mode": "linear", "threshold": 1}, (512, None, 32, 1.0, "linear")),
        ({"mode": "ar", "num_inference_steps": 7}, (512, 7, 32, 0.9, "ar")),
    ],
)
def test_what_the_model_is_asked(given: dict[str, Any], expected: tuple[Any, ...]) -> None:
    model = Script("x")
    assert post(serve(model), "/run", ASKED | given)[0].status == 200
    asked = model.asked[0]
    assert (asked.max_tokens, asked.steps, asked.block_length, asked.threshold, asked.mode) == expected


LEAST, MOST = "Input should be greater than or equal to", "Input should be less than or equal to"
STEPS = ("num_inference_steps", "inference_steps")


@pytest.mark.parametrize("path", ["/run", "/stream"])
@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"prompt": ...}, "prompt", "Field required"),
        ({"image_url": ...}, "image_url", "Field required"),
        ({"prompt": 5}, "prompt", "valid string"),
        *(({name: 0}, name, f"{LEAST} ") for name in ("max_tokens", "block_length", *STEPS)),
        *(({name: -1}, name, f"{LEAST} ") for name in ("max_tokens", "block_length", "threshold", *STEPS)),
        *(({name: True}, name, "Input should be a valid") for name in ("max_tokens", "block_length", "threshold", *STEPS)),
        *(({name: 16.5}, name, "fractional part") for name in ("max_tokens", "block_length", *STEPS)),
        *(({name: "many"}, name, "unable to parse") for name in ("max_tokens", "block_length", "threshold", *STEPS)),
        ({"max_tokens": 8193}, "max_tokens", f"{MOST} 8192"),
        ({"block_length": 7}, "block_length", f"{LEAST} 8"),
        ({"block_length": 129}, "block_length", f"{MOST} 128"),
        ({"threshold": 1.01}, "threshold", f"{MOST} 1"),
        *(({name: 1025}, name, f"{MOST} 1024") for name in STEPS),
        *(({name: 8}, name, "16 (max_tokens 512 / block_length 32); nearest valid value: 16") for name in STEPS),
        *(({name: 40}, name, "16 (max_tokens 512 / block_length 32); nearest valid values: 32 and 48") for name in STEPS),
        ({"num_inference_steps": 32, "inference_steps": 64}, "inference_steps", "(64 and 32)"),
        ({"mode": "fast"}, "mode", "'diffusion', 'ar', 'linear' or 'auto'"),
    ],
)
def test_each_rule_of_the_input(change: dict[str, Any], field: str, says: str, path: str) -> None:
    (fault,) = refused(change, path)
    assert fault["loc"] == ["body", field]
    assert says in fault["msg"]


def test_all_faults_come_at_once() -> None:
    assert [fault["loc"][1] for fault in refused({"prompt": 5, "max_tokens": 0, "threshold": 2})] == ["prompt", "max_tokens", "threshold"]


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("data:text/plain;base64,aGk=", "image_load_error"),
        ("http://127.0.0.1:9/a.png", "file_download_error"),
        ("ftp://x/a", "file_download_error"),
    ],
)
def test_a_picture_that_cannot_be_used_is_a_fault_of_its_field(url: str, kind: str) -> None:
    (fault,) = refused({"image_url": url})
    assert (fault["loc"], fault["type"], fault["input"]) == (["body", "image_url"], kind, url)


@pytest.mark.parametrize("body", [b"{", b"[]", b"7"])
def test_bodies_that_are_no_json_object(body: bytes) -> None:
    head, reply = post(serve(Script("x")), "/run", body)
    assert (head.status, reply["detail"][0]["type"]) in ((422, "json_invalid"), (422, "model_attributes_type"))


def test_errors_have_fals_shape_and_words() -> None:
    head, reply = post(serve(Script("x")), "/run/sensorium/other", ASKED)
    assert (head.status, reply["error_type"], head.headers["x-fal-error-type"]) == (404, "model_not_found", "model_not_found")
    assert reply["detail"] == reply["message"]
    head, reply = post(serve(Script(error=UpstreamFailed("broke"))), "/run", ASKED)
    assert (head.status, reply["detail"]) == (fal_errors.status(UpstreamFailed("")), "broke")
    head, _ = asyncio.run(ask(serve(Script("x")), "GET", "/run", headers=AUTH))
    assert (head.status, head.headers["allow"]) == (405, "POST")
    head, reply = post(serve(Script("x"), lane=Lane("cpu", limit=0)), "/run", ASKED)
    assert (head.status, reply["error_type"]) == (429, "concurrent_requests_limit")
    assert head.headers["retry-after"]


def test_fals_way_of_showing_a_token() -> None:
    app = serve(Script("x"))
    for given, status in ((AUTH["authorization"].replace("Bearer", "Key"), 200), ("Key other", 401), ("", 401)):
        head, data = asyncio.run(ask(app, "POST", "/run", ASKED, {"authorization": given}))
        assert head.status == status
        assert "detail" in json.loads(data) or status == 200


def test_without_a_token_everybody_is_served() -> None:
    app = serve(Script("x"), token="")
    assert asyncio.run(ask(app, "POST", "/run", ASKED))[0].status == 200
    assert asyncio.run(ask(app, "GET", "/v1/models", headers={"authorization": "Bearer whatever"}))[0].status == 200


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"host": "evil.example:8790"}, "does not answer to the name evil.example"),
        ({"origin": "https://evil.example"}, "does not answer pages of other sites"),
        ({"sec-fetch-site": "cross-site"}, "does not answer pages of other sites"),
    ],
)
def test_without_a_token_no_web_page_is_served(headers: dict[str, str], says: str) -> None:
    model = Script("x")
    for path in ("/run", "/v1/chat/completions"):
        head, data = asyncio.run(ask(serve(model, token=""), "POST", path, ASKED, headers))
        assert (head.status, says in data.decode()) == (403, True)
    assert model.asked == []
    near = {"host": "localhost:8790", "origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-origin"}
    assert asyncio.run(ask(serve(model, token=""), "POST", "/run", ASKED, near))[0].status == 200
    assert asyncio.run(ask(serve(model), "POST", "/run", ASKED, AUTH | headers))[0].status == 200
