"""The simulated queue: states on its clock, positions, slots, deadlines, cancelling, the status stream, refusals, files, faults."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.simulators.fal.site import CUBE, KEY, LTX, OTHER_KEY, QUEUE, RUN, SCHNELL, VLM, FalSite, png, running


def test_a_request_goes_through_its_states(fal: FalSite) -> None:
    told = fal.submit()
    at = f"{fal.queue}/fal-ai/flux/requests/{told['request_id']}"
    assert (told["status"], told["queue_position"]) == ("IN_QUEUE", 0)
    assert (told["response_url"], told["status_url"], told["cancel_url"]) == (at, f"{at}/status", f"{at}/cancel")
    waiting = fal.call("GET", told["status_url"])
    assert (waiting.status, waiting.json["status"], waiting.json["queue_position"]) == (202, "IN_QUEUE", 0)
    early = fal.call("GET", at)
    assert (early.status, early.json["detail"]) == (400, "Request is still in progress")
    fal.clock.at += 0.1
    running = fal.call("GET", told["status_url"] + "?logs=true")
    assert (running.status, running.json["status"], [line["message"] for line in running.json["logs"]]) == (202, "IN_PROGRESS", ["started"])
    fal.clock.at += 1
    done = fal.call("GET", told["status_url"])
    assert (done.status, done.json["status"], done.json["logs"]) == (200, "COMPLETED", None)
    assert done.json["metrics"] == {"inference_time": 0.2}
    result = fal.call("GET", at)
    assert (result.status, result.json["seed"], result.headers["x-fal-request-id"]) == (200, 7, told["request_id"])
    assert [fal.call("GET", at + tail).body == result.body for tail in ("/", "/response")] == [True, True]


def test_an_account_has_slots_and_the_rest_waits_in_line() -> None:
    with running(slots=1) as fal:
        first, second, third = (fal.submit() for _ in range(3))
        assert [one["queue_position"] for one in (first, second, third)] == [0, 1, 2]
        fal.clock.at += 0.26  # the first has run for 0.2 s, and the second begins where it ended
        states = [fal.call("GET", one["status_url"]).json for one in (first, second, third)]
        assert [one["status"] for one in states] == ["COMPLETED", "IN_PROGRESS", "IN_QUEUE"]
        assert states[2]["queue_position"] == 0
        fal.clock.at += 0.2
        assert fal.call("GET", third["status_url"]).json["status"] == "IN_PROGRESS"


def test_a_start_deadline_that_passes() -> None:
    with running(slots=1) as fal:
        fal.fault("stuck", times=1)
        fal.submit()
        fal.clock.at += 1
        late = fal.submit(**{"X-Fal-Request-Timeout": "2.5"})
        fal.clock.at += 3
        status = fal.call("GET", late["status_url"]).json
        assert (status["status"], status["error_type"]) == ("COMPLETED", "request_timeout")
        result = fal.call("GET", late["response_url"])
        assert (result.status, result.headers["x-fal-request-timeout-type"]) == (504, "user")
        assert fal.call("POST", f"{QUEUE}/{SCHNELL}", CUBE, {"X-Fal-Request-Timeout": "soon"}).json["error_type"] == "bad_request"


def test_cancelling(fal: FalSite) -> None:
    told = fal.submit()
    assert fal.call("PUT", told["cancel_url"]).json == {"status": "CANCELLATION_REQUESTED"}
    again = fal.call("PUT", told["cancel_url"])
    assert (again.status, again.json) == (400, {"status": "ALREADY_COMPLETED"})
    assert fal.call("GET", told["response_url"]).status == 499
    assert fal.call("GET", told["status_url"]).json["error_type"] == "client_cancelled"


def test_the_status_stream_tells_every_change_and_each_log_line_once(fal: FalSite) -> None:
    told = fal.submit()
    answer = fal.call("GET", told["status_url"] + "/stream?logs=1")
    events = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: ")]
    assert [event["status"] for event in events] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    assert [line["message"] for event in events[1:] for line in event["logs"]] == ["started", "finished with 200"]
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("header", "status", "detail"),
    [
        (None, 401, "Authorization header is required"),
        ("Key", 401, "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."),
        ("Key nocolon", 401, "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."),
        ("Key a:b", 401, "No user found for Key ID and Secret"),
        ("Key locked-id:locked-secret", 403, "User is locked."),
        (f"Bearer {KEY}\n", 200, ""),
    ],
)
def test_who_may_call(fal: FalSite, header: str | None, status: int, detail: str) -> None:
    headers = {} if header is None else {"Authorization": header.strip()}
    answer = fal.call("POST", f"{QUEUE}/{SCHNELL}", CUBE, headers, key=None)
    assert answer.status == status
    assert status == 200 or answer.json["detail"].startswith(detail)
    assert "x-fal-request-id" in answer.headers


def test_a_request_is_for_its_own_account_below_its_own_app(fal: FalSite) -> None:
    told = fal.submit()
    path = told["status_url"]
    assert fal.call("GET", path, key=OTHER_KEY).json["status"] == "NOT_FOUND"
    assert fal.call("GET", path.replace("fal-ai/flux", "fal-ai/ltx-video")).status == 404
    assert fal.call("GET", path.replace("fal-ai/flux/", "fal-ai/flux/schnell/")).status == 202
    assert fal.call("DELETE", path).status == 405


def test_what_is_refused_at_once(fal: FalSite) -> None:
    assert fal.call("POST", f"{QUEUE}/nobody/nothing", CUBE).status == 404
    torn = fal.call("POST", f"{QUEUE}/{SCHNELL}", b'{"prompt": ')
    assert (torn.status, torn.json["detail"][0]["type"]) == (422, "json_invalid")
    assert fal.call("POST", f"{QUEUE}/{SCHNELL}", []).json["detail"][0]["type"] == "model_attributes_type"
    assert fal.call("GET", f"{QUEUE}/{SCHNELL}").status == 405


def test_an_input_that_is_refused_is_the_result(fal: FalSite) -> None:
    told = fal.submit(SCHNELL, {"prompt": 5, "num_images": 9})
    fal.clock.at += 1
    status = fal.call("GET", told["status_url"])
    assert (status.status, status.json["error"], status.json["error_type"]) == (
        200,
        "prompt: Input should be a valid string",
        "validation_error",
    )
    result = fal.call("GET", told["response_url"])
    assert [item["type"] for item in result.json["detail"]] == ["string_type", "less_than_equal"]
    assert (result.status, result.headers["x-fal-retryable"]) == (422, "false")


def test_files_need_no_key(fal: FalSite) -> None:
    url = fal.finished(SCHNELL, CUBE).json["images"][0]["url"]
    file = fal.call("GET", url, key=None)
    assert (file.status, file.headers["content-type"], file.body[:3]) == (200, "image/jpeg", b"\xff\xd8\xff")
    assert fal.call("HEAD", url, key=None).body == b""
    film = fal.finished(LTX, {"prompt": "waves", "num_frames": 9}).json["video"]
    assert fal.call("GET", film["url"], key=None).body[4:8] == b"ftyp"
    fal.fault("no-file")
    assert fal.call("GET", url, key=None).status == 404


def test_a_direct_call_is_answered_when_it_is_done(fal: FalSite) -> None:
    answer = fal.call("POST", f"{RUN}/{VLM}", {"image_url": png(), "prompt": "What?"})
    assert (answer.status, fal.clock.slept) == (200, [0.2])
    assert fal.call("POST", f"{RUN}/{VLM}", {}).status == 422
    fal.fault("stuck", times=2)
    fal.submit(), fal.submit()
    fal.clock.at += 1
    busy = fal.call("POST", f"{RUN}/{SCHNELL}", CUBE)
    assert (busy.status, busy.headers["x-fal-error-type"]) == (429, "concurrent_requests_limit")


@pytest.mark.parametrize(
    ("kind", "status", "header"), [("429", 429, "retry-after"), ("500", 500, "x-fal-error-type"), ("503", 503, "retry-after")]
)
def test_faults_of_a_submit(fal: FalSite, kind: str, status: int, header: str) -> None:
    assert fal.call("POST", "/simulator/faults", {"kind": kind, "times": 1}).status == 204
    answer = fal.call("POST", f"{QUEUE}/{SCHNELL}", CUBE)
    assert (answer.status, header in answer.headers) == (status, True)
    assert fal.call("POST", f"{QUEUE}/{SCHNELL}", CUBE).status == 200


def test_faults_of_a_request(fal: FalSite) -> None:
    fal.fault("wrong-host", times=1)
    assert all("://localhost:" in fal.submit()[name] for name in ("status_url",))
    fal.fault("never", times=1)
    told = fal.submit()
    fal.clock.at += 3600
    assert fal.call("GET", told["status_url"]).json["status"] == "IN_QUEUE"
    fal.fault("error", times=1)
    assert fal.finished(SCHNELL, CUBE).json["error_type"] == "runner_server_error"
    for kind, status in (("lost", 404), ("status-500", 500)):
        fal.fault(kind, times=1)
        assert fal.call("GET", told["status_url"]).status == status


def test_what_cannot_be_ordered(fal: FalSite) -> None:
    for order in ({"kind": "fire"}, {"kind": "429", "rate": 2}, {"rate": 1}, []):
        assert fal.call("POST", "/simulator/faults", order).status == 400
    assert fal.call("GET", "/simulator/nothing").status == 400


def test_what_was_called_is_listed_without_keys(fal: FalSite) -> None:
    fal.submit()
    (seen,) = fal.call("GET", "/simulator/calls", key=None).json
    assert (seen["path"], seen["status"], seen["keyed"], seen["body"]) == (f"/{SCHNELL}", 200, True, CUBE)
    assert KEY not in json.dumps(seen)
    fal.fault("500")
    assert fal.call("GET", "/simulator").json["faults"][0]["kind"] == "500"
    assert fal.call("DELETE", "/simulator/faults").status == 204
    assert fal.call("GET", "/simulator").json == {"faults": []}


def test_a_host_may_be_named_in_the_header(fal: FalSite) -> None:
    answer = fal.call("POST", f"/{SCHNELL}", CUBE, {"Host": "queue.fal.run"})
    assert answer.json["status_url"].startswith("http://queue.fal.run/fal-ai/flux/requests/")


def item(answer: Any) -> tuple[str, str, Any]:
    (one,) = answer.json["detail"]
    return one["loc"][-1], one["type"], one.get("ctx")


@pytest.mark.parametrize(
    ("changes", "field", "kind", "ctx"),
    [
        ({"max_tokens": 0}, "max_tokens", "greater_than_equal", {"ge": 1}),
        ({"max_tokens": 1.5}, "max_tokens", "int_from_float", None),
        ({"max_tokens": True}, "max_tokens", "int_type", None),
        ({"max_tokens": "many"}, "max_tokens", "int_parsing", None),
        ({"threshold": 1.5}, "threshold", "less_than_equal", {"le": 1}),
        ({"num_inference_steps": 8}, "num_inference_steps", "greater_than_equal", {"ge": 16}),
        ({"inference_steps": 40}, "inference_steps", "multiple_of", {"multiple_of": 16}),
        ({"num_inference_steps": 64, "inference_steps": 32}, "inference_steps", "value_error", None),
        ({"image_url": "data:image/png;base64,AAAA"}, "image_url", "image_load_error", None),
        ({"image_url": "https://example.com/a.png"}, "image_url", "file_download_error", None),
    ],
)
def test_what_the_vision_app_refuses(fal: FalSite, changes: dict[str, Any], field: str, kind: str, ctx: Any) -> None:
    answer = fal.finished(VLM, {"image_url": png(), "prompt": "What?", **changes})
    assert (answer.status, item(answer)) == (422, (field, kind, ctx))


def test_what_the_apps_make(fal: FalSite) -> None:
    seen = fal.finished(VLM, {"image_url": png(), "prompt": "What is it?", "max_tokens": "3", "threshold": None}).json
    assert (seen["output"], seen["usage"]["completion_tokens"]) == ("The picture has", 3)
    drawn = fal.finished(SCHNELL, {**CUBE, "num_images": 2, "sync_mode": True, "output_format": "png"}).json
    assert [one["url"][:22] for one in drawn["images"]] == ["data:image/png;base64,"] * 2
    assert drawn["images"][0] != drawn["images"][1]
    assert fal.finished(SCHNELL, {**CUBE, "prompt": "NSFW"}).json["has_nsfw_concepts"] == [True]
    sized = fal.finished(SCHNELL, {"prompt": "x", "image_size": "square"}).json["images"][0]
    assert (sized["width"], sized["height"]) == (512, 512)
