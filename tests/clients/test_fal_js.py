"""The official JavaScript client of fal, unmodified, against a real hub: every call it has, by each of the ways to point it there."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.conftest import APP, Rig
from tests.clients.site import ANSWER, FAIL, SIZE, WAIT, WHOLE, png

Node = Callable[..., Any]
WAYS = ("proxy", "middleware", "fetch")
PICTURE = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
LARGE = 101 * 1024 * 1024
names = (f"js{number}" for number in itertools.count())


@pytest.fixture(params=WAYS)
def call(request: pytest.FixtureRequest, rig: Rig, node: Node) -> Callable[..., Any]:
    """Runs one call of calls.mjs by this way."""

    def ask(name: str, /, **given: Any) -> Any:
        return node(rig, request.param, name, json.dumps(given))

    return ask


def asked(prompt: str = "What colour is the box?", **more: Any) -> dict[str, Any]:
    return {"image_url": PICTURE, "prompt": prompt, **more}


def is_whole(output: dict[str, Any]) -> bool:
    """Whether this is the app's output, with all of its members."""
    stages = {"image_validation_time", "preprocessing_time", "gpu_transfer_time", "generation_time", "decode_time"}
    return (
        output["output"] == WHOLE
        and set(output) == {"output", "usage", "timings"}
        and {"prompt_tokens", "completion_tokens", "num_function_evals"} == set(output["usage"])
        and set(output["timings"]) == {"total_time", *stages}
    )


def test_run(call: Node) -> None:
    told = call("run", input=asked())
    assert is_whole(told["data"]) and told["requestId"]


def test_run_by_get(call: Node, rig: Rig) -> None:
    told = call("run", method="get", input={"image_url": f"{rig.at}/box.png", "prompt": SIZE, "max_tokens": 64})
    assert told["data"]["output"] == "8 x 6"


@pytest.mark.parametrize("mode", ["polling", "streaming"])
def test_subscribe(call: Node, mode: str) -> None:
    told = call("subscribe", input=asked(), logs=True, mode=mode, pollInterval=20)
    assert is_whole(told["result"]["data"])
    assert told["enqueued"] == [told["result"]["requestId"]]
    assert {one["status"] for one in told["updates"]} <= {"IN_QUEUE", "IN_PROGRESS", "COMPLETED"}
    last = told["updates"][-1]
    assert (last["status"], len(last["logs"]) >= 2, len(set(last["logs"])) == len(last["logs"])) == ("COMPLETED", True, True)


def test_every_stage_of_a_request(call: Node) -> None:
    gate = next(names)
    told = call("stages", gate=gate, input=asked(WAIT + gate))
    id = told["submitted"]["request_id"]
    assert (told["submitted"]["status"], told["submitted"]["queue_position"]) == ("IN_QUEUE", 0)
    assert told["submitted"]["response_url"].endswith(f"/fal/queue/{APP}/requests/{id}")
    assert told["submitted"]["status_url"].endswith(f"{id}/status") and told["submitted"]["cancel_url"].endswith(f"{id}/cancel")
    assert (told["running"]["request_id"], isinstance(told["running"]["logs"], list), told["silent"]["logs"]) == (id, True, None)
    assert (told["early"]["status"], told["early"]["body"]["detail"]) == (400, "Request is still in progress")
    assert told["completed"]["metrics"]["inference_time"] > 0 and "error" not in told["completed"]
    assert (is_whole(told["result"]["data"]), told["result"]["requestId"]) == (True, id)


def test_the_stream_of_a_status(call: Node) -> None:
    gate = next(names)
    told = call("stream_status", gate=gate, input=asked(WAIT + gate))
    assert [one["status"] for one in told["seen"]][-1] == told["done"]["status"] == "COMPLETED"
    lines = [line["message"] for one in told["seen"] for line in one.get("logs") or []]
    assert len(lines) >= 2 and len(lines) == len(set(lines))


@pytest.mark.parametrize("mode", ["polling", "streaming"])
def test_subscribe_to_a_status(call: Node, mode: str) -> None:
    told = call("subscribe_to_status", options={"input": asked()}, mode=mode)
    assert (told["done"]["status"], told["updates"][-1]["status"]) == ("COMPLETED", "COMPLETED")


def test_cancel(call: Node) -> None:
    gate = next(names)
    told = call("cancel", gate=gate, first={"input": asked(WAIT + gate)}, second={"input": asked()})
    assert told["position"] == 0
    for name in ("waiting", "running"):
        assert told[name]["status"]["error_type"] == "client_cancelled"
        assert (told[name]["result"]["status"], told[name]["result"]["body"]["error_type"]) == (499, "client_cancelled")
        assert (told[name]["again"]["status"], told[name]["again"]["body"]["status"]) == (400, "ALREADY_COMPLETED")


def test_a_request_that_there_is_not(call: Node) -> None:
    told = call("unknown_request", requestId="764cabcf-b745-4b3e-ae38-1200304cf45b")
    assert {(one["status"], one["body"]["status"]) for one in told.values()} == {(404, "NOT_FOUND")}


def test_stream(call: Node) -> None:
    told = call("stream", input=asked())
    texts = [event["output"] for event in told["events"]]
    assert (is_whole(told["done"]), bool(told["requestId"]), texts[0] in (ANSWER[0], WHOLE)) == (True, True, True)
    assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(texts))
    assert told["events"][-1] == told["done"]


def test_stream_with_a_token_in_the_address(rig: Rig, node: Node) -> None:
    """By the client's design this goes neither through a proxy nor through a middleware."""
    told = node(rig, "fetch", "stream", json.dumps({"connectionMode": "client", "input": asked()}))
    assert is_whole(told["done"])


def test_tokens_of_the_applications_own(rig: Rig, node: Node) -> None:
    told = node(rig, "fetch", "stream", json.dumps({"connectionMode": "client", "input": asked(), "provided": True}))
    assert is_whole(told["done"]) and told["tokens"] == [f"{APP}/stream"]
    told = node(rig, "fetch", "realtime", json.dumps({"inputs": [asked()], "bad": {"prompt": "no picture"}, "provided": True}))
    assert [one["output"] for one in told["results"]] == [WHOLE]
    assert told["tokens"] == [f"{APP}/realtime"]


def test_a_stream_that_is_refused(call: Node) -> None:
    told = call("refused_stream", input=asked(max_tokens=0))
    assert (told["validation"], told["status"], told["fieldErrors"][0]["type"]) == (True, 422, "greater_than_equal")


def test_a_stream_that_is_left_ends_the_work(call: Node) -> None:
    gate = next(names)
    told = call("aborted_stream", gate=gate, input=asked(WAIT + gate))
    assert told["partial"]["output"] == ANSWER[0]


def test_realtime(call: Node) -> None:
    told = call("realtime", inputs=[asked(), asked(SIZE)], bad={"prompt": "no picture"})
    assert [one["output"] for one in told["results"]] == [WHOLE, "8 x 6"]
    assert len(told["errors"]) == 1


@pytest.mark.parametrize("name", ["hello.txt", None])
def test_upload(call: Node, name: str | None) -> None:
    told = call("upload", text="Hello, World!", type="text/plain", name=name, lifecycle={"expiresIn": "1h"})
    assert (told["status"], told["type"].partition(";")[0], told["size"], told["same"]) == (200, "text/plain", 13, told["sent"])
    assert told["url"].startswith("http://127.0.0.1:") and "?" not in told["url"]


def test_upload_in_parts(call: Node) -> None:
    told = call("upload_large", bytes=LARGE)
    assert (told["status"], told["type"], told["size"], told["same"]) == (200, "application/x-large", LARGE, told["sent"])


def test_files_in_an_input_are_uploaded(call: Node) -> None:
    told = call("transform", base64=base64.b64encode(png()).decode())
    assert (told["back"]["type"], told["back"]["same"]) == ("image/png", told["sent"])
    assert (told["input"]["list"][1], told["input"]["deep"]) == ("text", {"number": 7})
    assert told["input"]["list"][0].startswith("http")


@pytest.mark.parametrize("by", ["upload", "input"])
def test_a_file_of_ours_is_the_picture(call: Node, by: str) -> None:
    assert call("picture_of_ours", base64=base64.b64encode(png(5, 3)).decode(), prompt=SIZE, by=by)["data"]["output"] == "5 x 3"


@pytest.mark.parametrize("name", ["refused_run", "refused_subscribe"])
def test_an_input_that_cannot_be(call: Node, name: str) -> None:
    told = call(name, input={"image_url": PICTURE, "max_tokens": 0})
    assert (told["name"], told["status"], told["api"], told["validation"], bool(told["requestId"])) == (
        "ValidationError",
        422,
        True,
        True,
        True,
    )
    assert [(one["loc"], one["type"]) for one in told["fieldErrors"]] == [
        (["body", "prompt"], "missing"),
        (["body", "max_tokens"], "greater_than_equal"),
    ]
    assert (told["message"], told["promptErrors"][0]["msg"]) == ("prompt: Field required", "Field required")


def test_an_app_that_there_is_not(call: Node) -> None:
    told = call("refused_run", app="nobody/nothing", input={})
    assert (told["status"], told["name"], told["body"]["detail"]) == (404, "ApiError", "Application 'nobody/nothing' not found")


def test_a_key_that_nobody_has(call: Node) -> None:
    told = call("another_key", key="k1:wrong", input=asked())
    assert (told["status"], told["body"]["detail"]) == (401, "No user found for Key ID and Secret")


def test_a_model_that_fails(call: Node) -> None:
    told = call("refused_subscribe", input=asked(FAIL))
    assert (told["name"], told["status"]) == ("ApiError", 500)
    assert told["body"]["error_type"]


def test_a_webhook(call: Node, rig: Rig, node: Node) -> None:
    name = next(names)
    told = call("submit", options={"input": asked(), "webhookUrl": f"{rig.at}/hook/{name}"})
    hook = node(rig, "fetch", "hook", json.dumps({"name": name}))
    body = json.loads(hook["body"])
    assert (body["request_id"], body["status"], is_whole(body["payload"])) == (told["request_id"], "OK", True)
    assert hook["headers"]["x-fal-webhook-request-id"] == told["request_id"]
    assert len(hook["headers"]["x-fal-webhook-signature"]) == 128


@pytest.mark.parametrize("wanted", [{"expiresIn": "1h"}, {"expiresIn": 3600, "initialAcl": {"default": "forbid", "rules": []}}])
def test_how_long_outputs_live(call: Node, wanted: dict[str, Any]) -> None:
    assert is_whole(call("run", input=asked(), storageSettings=wanted)["data"])
    assert call("submit", options={"input": asked(), "storageSettings": wanted})["status"] == "IN_QUEUE"


def test_one_of_low_priority_lets_others_pass(call: Node, rig: Rig) -> None:
    gate, low, normal = (next(names) for _ in range(3))
    told = call("priorities", gate=gate, first={"input": asked(WAIT + gate)}, low={"input": asked(low)}, normal={"input": asked(normal)})
    assert told["positions"] == {"low": 1, "normal": 0}
    assert [prompt for prompt in rig.site.prompts if prompt in (low, normal)] == [normal, low]


def test_a_request_that_did_not_start_in_time(call: Node) -> None:
    gate = next(names)
    told = call("start_timeout", gate=gate, first={"input": asked(WAIT + gate)}, second={"input": asked()})
    assert told["status"]["error_type"] == "request_timeout"
    assert (told["result"]["status"], told["result"]["userTimeout"]) == (504, True)


def test_a_client_that_waits_no_longer_cancels(call: Node) -> None:
    gate = next(names)
    told = call("client_timeout", gate=gate, options={"input": asked(WAIT + gate)})
    assert "timed out" in told["error"]["message"] and not told["error"]["api"]


def test_a_run_that_is_aborted_ends_the_work(call: Node) -> None:
    gate = next(names)
    assert call("aborted_run", gate=gate, input=asked(WAIT + gate))["error"]["name"] == "AbortError"


def test_a_subscription_that_is_aborted(call: Node) -> None:
    gate = next(names)
    assert call("aborted_subscribe", gate=gate, input=asked(WAIT + gate))["error"]["name"] == "AbortError"


def test_a_key_makes_a_repeated_submission_the_first_one(call: Node) -> None:
    options = {"input": asked(), "headers": {"Idempotency-Key": next(names)}}
    told = call("submitted_twice", options=options, other=asked("something else"))
    assert told["first"]["request_id"] == told["second"]["request_id"]
    assert told["other"]["status"] == 422


def test_an_app_below_an_alias_draws(shipped: Rig, node: Node) -> None:
    given = {"app": "fal-ai/flux/schnell", "input": {"prompt": "a red cube on a white table", "seed": 7}, "pollInterval": 50}
    told = node(shipped, "proxy", "subscribe", json.dumps(given))["result"]["data"]
    assert (told["seed"], told["images"][0]["content_type"]) == (7, "image/jpeg")
    assert told["images"][0]["url"].startswith(f"{shipped.hub}/fal/cdn/files/")
