"""fal's queue door over a queue in memory: every answer of the protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from typing import Any

import pytest

from sensorium.api.hold import Hold
from sensorium.errors import Cause, DeadlineExceeded, SensoriumError, Unavailable, UnknownModel, UpstreamFailed
from sensorium.jobs.endings import failed
from sensorium.jobs.request import State
from tests.api.fal_fakes import DEEP, ECHO, Place, asked, doors

QUEUE = f"/fal/queue/{ECHO}"
REQUESTS = f"{QUEUE}/requests"


@pytest.fixture
def place() -> Iterator[Place]:
    with doors() as place:
        yield place


def submitted(place: Place, **headers: str) -> str:
    said = {name.replace("_", "-"): text for name, text in headers.items()}
    status, told = place.hub.json("POST", QUEUE, {"prompt": "x"}, said)
    assert status == 200
    return str(told["request_id"])


def test_a_submission_is_answered_with_everything_that_clients_read(place: Place) -> None:
    reply, raw = place.hub.call("POST", f"/fal/queue/{DEEP}", {"prompt": "x"})
    told, id = json.loads(raw), next(iter(place.queue.requests))
    at = f"http://{place.hub.address}{REQUESTS}/{id}"
    assert (reply.status, reply.getheader("x-fal-request-id"), reply.getheader("x-sensorium-source")) == (200, id, "hub")
    assert told == {
        "status": "IN_QUEUE",
        "request_id": id,
        "response_url": at,
        "status_url": f"{at}/status",
        "cancel_url": f"{at}/cancel",
        "queue_position": 0,
        "logs": None,
        "metrics": {},
        "gateway_request_id": id,
    }
    got = place.queue.asked[id]
    assert (got.work, got.app, got.path, got.lane, got.caller, got.body) == (
        *("fal", ECHO, "/deep/er", "echo-model", "local"),
        b'{"prompt": "x"}',
    )
    assert got.call["base_url"] == f"http://{place.hub.address}"


def test_links_begin_with_the_public_url() -> None:
    with doors(public_url="https://hub.example/") as place:
        assert place.hub.json("POST", QUEUE, {})[1]["status_url"].startswith(f"https://hub.example{REQUESTS}/")


def test_every_header_and_parameter_of_a_submission_reaches_the_queue(place: Place) -> None:
    headers = {
        "X-Fal-Queue-Priority": "low",
        "X-Fal-Request-Timeout": "30.0",
        "X-Fal-Runner-Hint": "lora1",
        "X-Fal-Object-Lifecycle-Preference": '{"expiration_duration_seconds": 60}',
        "X-Fal-Store-IO": "0",
        "X-Fal-No-Retry": "Yes",
        "X-Fal-Retry-Config": '{"server_error": {"retries": 2}, "timeout": {"retries": 99}, "else": 1}',
        "Idempotency-Key": "k1",
    }
    query = "?fal_webhook=https%3A%2F%2Fmy.app%2Fhook%3Fx%3D1%26y%3D2&fal_max_queue_length=7"
    assert place.hub.json("POST", QUEUE + query, {"prompt": "x"}, headers)[0] == 200
    (got,) = place.queue.asked.values()
    assert (got.prio, got.start_within_s, got.idempotency_key, got.most_waiting) == (1, 30.0, "k1", 7)
    assert got.webhook_url == "https://my.app/hook?x=1&y=2"
    assert (got.rules.hint, got.rules.kept, got.rules.no_retry) == ("lora1", False, True)
    assert got.rules.retries == {"server_error": 2, "timeout": 9}
    assert got.call["lifecycle"] == {"expires_s": 60.0, "acl": None}


def test_a_submission_without_wishes_has_none(place: Place) -> None:
    submitted(place, X_Fal_Queue_Priority="normal", X_Fal_Retry_Config="not json", X_Fal_Store_IO="1")
    (got,) = place.queue.asked.values()
    assert (got.prio, got.start_within_s, got.webhook_url, got.idempotency_key, got.most_waiting) == (0, None, None, None, None)
    assert (got.rules.kept, got.rules.no_retry, got.rules.retries) == (True, False, {})


BAD_HEADERS = {
    "X-Fal-Request-Timeout": ["soon", "0", "0.1", "-3", "nan", "inf", "1e99"],
    "X-Fal-Queue-Priority": ["high"],
    "X-Fal-Object-Lifecycle-Preference": [
        "{",
        "[]",
        "7",
        '{"initial_acl": "' + "x" * 20_000 + '"}',
        '{"expiration_duration_seconds": "1h"}',
        '{"initial_acl": {"default": "may"}}',
    ],
    "X-Fal-Runner-Hint": ["x" * 300, "x" * 30_000, "na\xefve"],
    "Idempotency-Key": ["k" * 256, "na\xefve"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_HEADERS.items() for value in values])
def test_a_header_that_cannot_be_read_is_a_bad_request(place: Place, name: str, value: str) -> None:
    reply, raw = place.hub.call("POST", QUEUE, {"prompt": "x"}, {name: value})
    told = json.loads(raw)
    assert (reply.status, told["error_type"], reply.getheader("x-fal-error-type")) == (400, "bad_request", "bad_request")
    assert told["detail"] == told["message"] and name.lower()[:20] in told["detail"].lower().replace("the object ", "x-fal-object-")
    assert reply.getheader("x-fal-request-id") and place.queue.asked == {}


@pytest.mark.parametrize(
    ("body", "kind", "loc"),
    [
        (b"hello", "json_invalid", ["body", 0]),
        (b"", "json_invalid", ["body", 0]),
        (b'{"prompt": ', "json_invalid", ["body", 11]),
        (b'{"prompt": NaN}', "json_invalid", ["body", 11]),
        (b'{"prompt": "\xff"}', "json_invalid", None),
        (b'{"prompt": "\\ud800"}', "json_invalid", None),
        (b"[" * 3000, "json_invalid", None),
        (b"[1]", "model_attributes_type", ["body"]),
        (b"null", "model_attributes_type", ["body"]),
    ],
)
def test_a_body_that_is_no_object_is_refused(place: Place, body: bytes, kind: str, loc: list[Any] | None) -> None:
    reply, raw = place.hub.call("POST", QUEUE, body)
    (fault,) = json.loads(raw)["detail"]
    assert (reply.status, fault["type"], fault["url"]) == (422, kind, f"https://docs.fal.ai/errors#{kind}")
    assert loc is None or fault["loc"] == loc
    assert reply.getheader("x-fal-needs-retry") == "0" and place.queue.asked == {}


def test_a_faulty_input_is_taken_and_becomes_the_result() -> None:
    with doors(steps=True) as place:
        id = str(place.hub.json("POST", QUEUE, {})[1]["request_id"])
        for _ in range(3):
            status, told = place.hub.json("GET", f"{REQUESTS}/{id}/status")
        assert (status, told["status"], told["error"], told["error_type"]) == (
            *(200, "COMPLETED"),
            *("prompt: Field required", "validation_error"),
        )
        reply, raw = place.hub.call("GET", f"{REQUESTS}/{id}")
        body = json.loads(raw)
        assert (reply.status, body["detail"][0]["type"], body["message"]) == (422, "missing", "prompt: Field required")
        assert [reply.getheader(f"x-fal-{name}") for name in ("request-id", "retryable", "billable-units")] == [id, "false", "0"]


@pytest.mark.parametrize("url", ["http://10.0.0.1/hook", "ftp://my.app/hook", "https://my.app/" + "x" * 5000])
def test_a_webhook_that_may_not_be_called_is_refused_at_once(place: Place, url: str) -> None:
    status, told = place.hub.json("POST", f"{QUEUE}?fal_webhook={url}", {"prompt": "x"})
    assert (status, told["detail"][0]["loc"], told["detail"][0]["type"]) == (422, ["query", "fal_webhook"], "value_error")
    assert place.queue.asked == {}


def test_a_full_queue_is_429(place: Place) -> None:
    submitted(place)
    reply, raw = place.hub.call("POST", f"{QUEUE}?fal_max_queue_length=0", {"prompt": "x"})
    assert (reply.status, json.loads(raw)["error_type"], reply.getheader("retry-after")) == (429, "queue_full", "5")
    assert reply.getheader("x-fal-needs-retry") == "1"
    assert place.hub.json("POST", f"{QUEUE}?fal_max_queue_length=1", {"prompt": "x"})[0] == 200
    assert place.hub.json("POST", f"{QUEUE}?fal_max_queue_length=many", {"prompt": "x"})[0] == 400


def test_an_idempotency_key_makes_a_repetition_the_first_submission(place: Place) -> None:
    first = submitted(place, Idempotency_Key="k1")
    place.queue.move(first, State.RUNNING)
    reply, raw = place.hub.call("POST", QUEUE, {"prompt": "x"}, {"Idempotency-Key": "k1"})
    assert (reply.status, json.loads(raw)["request_id"], reply.getheader("idempotent-replayed")) == (200, first, "true")
    assert place.hub.call("POST", QUEUE, {"prompt": "y"}, {"Idempotency-Key": "k1"})[0].status == 422
    assert submitted(place, Idempotency_Key="k2") != first


def test_the_states_of_a_request(place: Place) -> None:
    first, id = submitted(place), submitted(place)
    at = f"{REQUESTS}/{id}"
    urls = {
        "response_url": f"http://{place.hub.address}{at}",
        "status_url": f"http://{place.hub.address}{at}/status",
        "cancel_url": f"http://{place.hub.address}{at}/cancel",
    }
    extras = {"attempt": 0, "eta_seconds": None, "model_state": None}
    waiting = {"status": "IN_QUEUE", "request_id": id, "queue_position": 1, **urls, "sensorium": extras}
    assert place.hub.json("GET", f"{at}/status") == (202, waiting)
    place.queue.move(first, State.RUNNING)
    assert place.hub.json("GET", f"{at}/status")[1]["queue_position"] == 0
    place.queue.move(id, State.RUNNING)
    place.queue.log(id, "block 3 of 16")
    place.queue.log(id, "odd", "TRACE")
    running = {"status": "IN_PROGRESS", "request_id": id, "logs": None, **urls, "sensorium": {**extras, "attempt": 1}}
    assert place.hub.json("GET", f"{at}/status?logs=0") == (202, running)
    line = {"message": "block 3 of 16", "level": "INFO", "source": "USER", "timestamp": "2026-01-01T00:00:01.250000Z"}
    logs = [line, {**line, "message": "odd"}]
    for yes in ("1", "true", "True"):
        assert place.hub.json("GET", f"{at}/status?logs={yes}") == (202, {**running, "logs": logs})
    place.queue.move(id, State.DELAYED)
    assert place.hub.json("GET", f"{at}/status")[1]["status"] == "IN_QUEUE"
    place.queue.move(id, State.RUNNING)
    place.queue.end(id, b'{"output":1}')
    over = {"status": "COMPLETED", "request_id": id, "logs": logs, "metrics": {"inference_time": 0.5}, **urls}
    reply, raw = place.hub.call("GET", f"{at}/status?logs=true")
    assert (reply.status, json.loads(raw)) == (200, {**over, "sensorium": {**extras, "attempt": 2}})
    assert (reply.getheader("x-fal-request-id"), reply.getheader("x-sensorium-source")) == (id, "hub")


def test_logs_are_there_even_when_there_are_none(place: Place) -> None:
    id = submitted(place)
    place.queue.move(id, State.RUNNING)
    assert place.hub.json("GET", f"{REQUESTS}/{id}/status?logs=1")[1]["logs"] == []


@pytest.mark.parametrize("tail", ["", "/", "/response", "/response/"])
@pytest.mark.parametrize("below", ["", "/deep/er", "/any/thing"])
def test_a_result_is_found_under_every_form_of_its_address(place: Place, tail: str, below: str) -> None:
    id = submitted(place)
    reply, raw = place.hub.call("GET", f"{QUEUE}{below}/requests/{id}{tail}")
    at = f"http://{place.hub.address}{REQUESTS}/{id}"
    early = {"request_id": id, "response_url": at, "status_url": f"{at}/status", "cancel_url": f"{at}/cancel"}
    still = "Request is still in progress"
    assert (reply.status, json.loads(raw)) == (400, {"detail": still, "message": still, **early})
    place.queue.end(id, b'{"output":"x"}', told={"headers": {"x-sensorium-source": "echoes"}})
    reply, raw = place.hub.call("GET", f"{QUEUE}{below}/requests/{id}{tail}")
    assert (reply.status, raw, reply.getheader("content-type")) == (200, b'{"output":"x"}', "application/json")
    assert (reply.getheader("x-fal-request-id"), reply.getheader("x-sensorium-source")) == (id, "echoes")
    assert place.hub.json("GET", f"{QUEUE}{below}/requests/{id}/status/")[0] == 200


def test_a_cancelled_request(place: Place) -> None:
    id = submitted(place)
    reply, raw = place.hub.call("PUT", f"{REQUESTS}/{id}/cancel")
    assert (reply.status, raw, reply.getheader("x-fal-request-id")) == (202, b'{"status":"CANCELLATION_REQUESTED"}', id)
    told = place.hub.json("GET", f"{REQUESTS}/{id}/status?logs=1")[1]
    assert (told["status"], told["error"], told["error_type"], told["logs"]) == ("COMPLETED", "Request cancelled", "client_cancelled", [])
    reply, raw = place.hub.call("GET", f"{REQUESTS}/{id}")
    over = {"detail": "Request cancelled", "error_type": "client_cancelled", "message": "Request cancelled"}
    assert (reply.status, json.loads(raw), reply.getheader("x-fal-error-type")) == (499, over, "client_cancelled")
    assert place.hub.json("PUT", f"{REQUESTS}/{id}/cancel") == (400, {"status": "ALREADY_COMPLETED"})


def test_a_running_request_is_told_to_stop(place: Place) -> None:
    id = submitted(place)
    place.queue.move(id, State.RUNNING)
    assert place.hub.json("PUT", f"{REQUESTS}/{id}/cancel")[0] == 202
    assert place.hub.json("GET", f"{REQUESTS}/{id}/status")[1]["status"] == "IN_PROGRESS"


def test_a_start_that_came_too_late(place: Place) -> None:
    id = submitted(place)
    told = {"error": "Request timed out", "error_type": "request_timeout", "timeout_type": "user"}
    place.queue.move(id, State.FAILED, status=504, told=told)
    status = place.hub.json("GET", f"{REQUESTS}/{id}/status")[1]
    assert (status["error"], status["error_type"]) == ("Request timed out", "request_timeout")
    reply, raw = place.hub.call("GET", f"{REQUESTS}/{id}")
    assert (reply.status, json.loads(raw)["detail"], json.loads(raw)["error_type"]) == (504, "Request timed out", "request_timeout")
    assert reply.getheader("x-fal-request-timeout-type") == "user"


FINAL: list[tuple[SensoriumError, Cause, str]] = [
    (UpstreamFailed("it broke"), "server_error", "runner_server_error"),
    (Unavailable("nobody is there"), "busy", "runner_scheduling_failure"),
    (DeadlineExceeded("it took too long"), "timeout", "request_timeout"),
    (SensoriumError("the hub failed"), "final", "internal_error"),
    (UnknownModel("the model is gone"), "final", "model_not_found"),
]


@pytest.mark.parametrize(("error", "cause", "kind"), FINAL)
def test_a_failure_for_good_has_no_status_that_clients_repeat(place: Place, error: SensoriumError, cause: Cause, kind: str) -> None:
    id = submitted(place)
    made = failed(error, cause, id)
    place.queue.end(id, made.body, made.status, made.told)
    reply, raw = place.hub.call("GET", f"{REQUESTS}/{id}")
    told = json.loads(raw)
    assert (reply.status, told["detail"], told["error_type"], reply.getheader("x-fal-error-type")) == (500, error.message, kind, kind)
    assert reply.getheader("x-fal-request-timeout-type") is None
    shown = place.hub.json("GET", f"{REQUESTS}/{id}/status")[1]
    assert (shown["status"], shown["error"], shown["error_type"]) == ("COMPLETED", error.message, kind)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_run_that_kept_such_a_status_is_shown_with_500(place: Place, status: int) -> None:
    id = submitted(place)
    place.queue.move(id, State.FAILED, status=status, told={"error": "no runner", "error_type": "runner_scheduling_failure"})
    reply, raw = place.hub.call("GET", f"{REQUESTS}/{id}")
    assert (reply.status, json.loads(raw)["error_type"]) == (500, "runner_scheduling_failure")


def test_a_result_that_is_not_kept_any_more_is_410(place: Place) -> None:
    id = submitted(place)
    place.queue.end(id, b"{}")
    place.queue.move(id, State.SUCCEEDED, payload_gone=True)
    status, told = place.hub.json("GET", f"{REQUESTS}/{id}")
    assert (status, told["error_type"]) == (410, "result_gone")
    assert place.hub.json("GET", f"{REQUESTS}/{id}/status")[0] == 200


UNKNOWN = ["", "/", "/status", "/response", "/status/stream"]


@pytest.mark.parametrize("tail", UNKNOWN)
def test_nobody_sees_a_request_of_another_caller_app_or_kind(place: Place, tail: str) -> None:
    for id in (
        "00000000-0000-7000-8000-000000000000",
        "%00",
        "..",
        "x" * 3000,
        place.queue.add(asked(caller="somebody")).id,
        place.queue.add(asked(app="acme/other")).id,
        place.queue.add(asked(work="video")).id,
    ):
        reply, raw = place.hub.call("GET", f"{REQUESTS}/{id}{tail}")
        told = json.loads(raw)
        assert (reply.status, told["status"], told["detail"]) == (404, "NOT_FOUND", "Request not found")
        assert reply.getheader("x-fal-request-id") and reply.getheader("x-sensorium-source") == "hub"
        assert place.hub.json("PUT", f"{REQUESTS}/{id}/cancel")[0] == 404


@pytest.mark.parametrize(("method", "path"), [("POST", "/fal/queue/nobody/nothing"), ("GET", "/fal/queue/nobody/nothing/openapi.json")])
def test_an_unknown_app_is_404(place: Place, method: str, path: str) -> None:
    reply, raw = place.hub.call(method, path, {} if method == "POST" else None)
    told = json.loads(raw)
    assert (reply.status, told["detail"], told["error_type"]) == (404, "Application 'nobody/nothing' not found", "app_not_found")
    assert place.hub.json("POST", f"{QUEUE}/no/such", {})[0] == 404


WRONG = [
    ("GET", QUEUE, "POST"),
    ("PUT", QUEUE, "POST"),
    ("POST", f"{REQUESTS}/x", "GET"),
    ("POST", f"{REQUESTS}/x/status", "GET"),
    ("POST", f"{REQUESTS}/x/cancel", "PUT"),
    ("GET", f"{REQUESTS}/x/cancel", "PUT"),
    ("PUT", f"{REQUESTS}/x/status", "GET"),
    ("PUT", f"{REQUESTS}", "GET"),
    ("POST", f"{REQUESTS}", "GET"),
    ("DELETE", QUEUE, "POST, GET, PUT"),
]


@pytest.mark.parametrize(("method", "path", "allowed"), WRONG)
def test_a_wrong_method_is_told_the_right_one(place: Place, method: str, path: str, allowed: str) -> None:
    reply, raw = place.hub.call(method, path)
    assert (reply.status, reply.getheader("allow"), json.loads(raw)["error_type"]) == (405, allowed, "bad_request")
    assert place.hub.json("GET", f"{REQUESTS}/x/no/such")[0] == 404


def test_one_lists_ones_own_requests(place: Place) -> None:
    ids = [submitted(place) for _ in range(3)]
    place.queue.add(asked(caller="somebody"))
    place.queue.end(ids[0], b"{}")
    status, told = place.hub.json("GET", f"{REQUESTS}?limit=2")
    assert (status, [one["request_id"] for one in told["requests"]], told["after"]) == (200, ids[:0:-1], ids[1])
    status, more = place.hub.json("GET", f"{REQUESTS}/?limit=2&after={told['after']}")
    assert ([one["request_id"] for one in more["requests"]], more["after"]) == (ids[:1], None)
    row = more["requests"][0]
    assert (row["app"], row["status"], row["created_at"], row["ended_at"]) == (
        *(ECHO, "COMPLETED"),
        *("2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:02.000000Z"),
    )
    assert [one["request_id"] for one in place.hub.json("GET", f"{REQUESTS}?status=completed")[1]["requests"]] == ids[:1]
    for wrong in ("limit=0", "limit=many", "limit=101", f"limit={'9' * 5000}", "status=GONE"):
        assert place.hub.json("GET", f"{REQUESTS}?{wrong}")[0] == 400


def events(reply: HTTPResponse) -> Iterator[Any]:
    """What a status stream says: decoded events, and comments as they are."""
    for raw in reply:
        line = raw.decode().rstrip("\n")
        assert line == "" or line.startswith(("data: {", ":"))
        if line:
            yield json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else line


def test_a_status_stream_tells_each_change_once_and_only_new_lines(place: Place) -> None:
    place.queue.at_once = False
    id = submitted(place)
    reply = place.hub.open("GET", f"{REQUESTS}/{id}/status/stream?logs=1")
    assert (reply.status, reply.getheader("content-type"), reply.getheader("x-fal-request-id")) == (200, "text/event-stream", id)
    told = events(reply)
    assert next(told)["status"] == "IN_QUEUE"
    wait_until_held(place, 1)
    place.queue.elapse()
    assert next(told) == ": ping"
    wait_until_held(place, 2)
    place.queue.move(id, State.RUNNING)
    assert next(told)["logs"] == []
    for number, message in enumerate(("one", "two")):
        wait_until_held(place, 3 + number)
        place.queue.log(id, message)
        assert [line["message"] for line in next(told)["logs"]] == [message]
    wait_until_held(place, 5)
    place.queue.log(id, "three")
    place.queue.end(id, b"{}")
    rest = list(told)
    assert [line["message"] for event in rest for line in event["logs"]] == ["three"]
    assert (rest[-1]["status"], set(place.queue.held)) == ("COMPLETED", {15.0})


def test_a_status_stream_without_logs_is_silent_about_them(place: Place) -> None:
    place.queue.at_once = False
    id = submitted(place)
    place.queue.move(id, State.RUNNING)
    told = events(place.hub.open("GET", f"{REQUESTS}/{id}/status/stream?logs=0"))
    assert (first := next(told))["status"] == "IN_PROGRESS" and first["logs"] is None
    wait_until_held(place, 1)
    place.queue.log(id, "one")
    wait_until_held(place, 2)
    place.queue.end(id, b"{}")
    assert [event["status"] for event in told] == ["COMPLETED"]


def wait_until_held(place: Place, times: int) -> None:
    """Until the door waits for a change; each pass asks the server something, so that it runs meanwhile."""
    while len(place.queue.held) < times:
        place.hub.call("GET", "/fal/queue/")


def test_a_long_poll_ends_with_the_change(place: Place) -> None:
    place.queue.at_once = False
    id = submitted(place)
    with ThreadPoolExecutor(1) as beside:
        waiting = beside.submit(place.hub.json, "GET", f"{REQUESTS}/{id}/status?wait=99")
        wait_until_held(place, 1)
        assert not waiting.done() and place.queue.held == [25.0]
        place.queue.move(id, State.RUNNING)
        assert waiting.result(10)[1]["status"] == "IN_PROGRESS"
    place.queue.move(id, State.DELAYED)
    assert place.hub.json("GET", f"{REQUESTS}/{id}/status?wait=20")[1]["status"] == "IN_QUEUE"  # news: told at once
    place.queue.end(id, b"{}")
    assert place.hub.json("GET", f"{REQUESTS}/{id}/status?wait=20")[0] == 200
    assert place.queue.held == [25.0]
    assert place.hub.json("GET", f"{REQUESTS}/{id}/status?wait=soon")[0] == 400


def test_repeated_looks_are_held_while_many_ask() -> None:
    clock = [0.0]
    hold = Hold(lambda: clock[0])
    with doors(hold=hold) as place:
        id = submitted(place)
        at = f"{REQUESTS}/{id}/status"
        place.hub.json("GET", at)
        place.hub.json("GET", at)
        assert place.queue.held == []  # idle
        for _ in range(3000):
            hold.counted()
        other = submitted(place)
        place.hub.json("GET", f"{REQUESTS}/{other}/status")
        assert place.queue.held == []  # the first look
        place.hub.json("GET", at)
        assert place.queue.held == [1.0]
        place.hub.json("GET", f"{at}?wait=0")
        place.queue.log(id, "news")
        place.hub.json("GET", at)
        assert place.queue.held == [1.0]
        place.queue.end(id, b"{}")
        place.hub.json("GET", at)
        place.hub.json("GET", at)
        assert place.queue.held == [1.0]
