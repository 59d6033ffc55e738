"""fal's shapes of errors, their types, statuses and headers, as tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sensorium.apps.app import UnknownApp
from sensorium.errors import (
    AddressRefused,
    BadRequest,
    BodyTooLarge,
    Busy,
    DeadlineExceeded,
    Forbidden,
    InvalidImage,
    MethodNotAllowed,
    SensoriumError,
    TokenMissing,
    Unauthorized,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
    UpstreamFailed,
    UpstreamRefused,
)
from sensorium.jobs.request import UnknownRequest
from sensorium.wire import fal_errors
from sensorium.wire.fal_errors import Refused, detail


def far(status: int, code: str = "semantic") -> UpstreamRefused:
    return UpstreamRefused("so it is", status=status, code=code, source="far")


TYPES: list[tuple[SensoriumError, int, str]] = [
    (BadRequest("x"), 400, "bad_request"),
    (AddressRefused("x"), 400, "bad_request"),
    (InvalidImage("x"), 400, "bad_request"),
    (MethodNotAllowed("x", "GET"), 405, "bad_request"),
    (UnsupportedMedia("x"), 415, "bad_request"),
    (BodyTooLarge("x"), 413, "body_too_large"),
    (Unauthorized("x"), 401, "invalid_token"),
    (Forbidden("x"), 403, "forbidden"),
    (UnknownApp("x"), 404, "app_not_found"),
    (Busy("x"), 429, "concurrent_requests_limit"),
    (Busy("x", code="queue_full"), 429, "queue_full"),
    (Unavailable("x"), 503, "runner_scheduling_failure"),
    (UpstreamFailed("x"), 500, "runner_server_error"),
    (DeadlineExceeded("x"), 504, "request_timeout"),
    (SensoriumError("x"), 500, "internal_error"),
    (far(408), 500, "request_timeout"),
    (far(409), 400, "bad_request"),
    (far(500, "provider_outage"), 500, "provider_outage"),
    (Unprocessable("x"), 422, "validation_error"),
    (far(422), 422, "semantic"),
]


@pytest.mark.parametrize(("error", "status", "kind"), TYPES, ids=[f"{type(error).__name__}-{kind}" for error, _, kind in TYPES])
def test_types_and_statuses(error: SensoriumError, status: int, kind: str) -> None:
    assert (fal_errors.status(error), fal_errors.error_type(error)) == (status, kind)
    assert fal_errors.status(error) not in (408, 409, 502)


@pytest.mark.parametrize(
    ("error", "body"),
    [
        (UnknownRequest("no request x", hint="h"), {"status": "NOT_FOUND", "detail": "Request not found", "message": "no request x (h)"}),
        (UnknownApp("Application 'a/b' not found", hint="h"), {"detail": "Application 'a/b' not found"}),
        (Unauthorized("unknown", hint="send it"), {"detail": "No user found for Key ID and Secret", "message": "unknown (send it)"}),
        (TokenMissing("none", hint="send it"), {"detail": "Authorization header is required", "message": "none (send it)"}),
        (BadRequest("odd", hint="do so"), {"detail": "odd (do so)", "message": "odd (do so)", "error_type": "bad_request"}),
        (SensoriumError("odd"), {"detail": "odd", "error_type": "internal_error"}),
    ],
)
def test_infrastructure_errors(error: SensoriumError, body: dict[str, Any]) -> None:
    told = json.loads(fal_errors.error(error, "id-1"))
    assert {name: told[name] for name in body} == body
    assert told["request_id"] == "id-1" and {"detail", "error_type", "message"} <= told.keys()
    assert fal_errors.headers(error)["x-fal-error-type"] == told["error_type"]


def test_model_errors_are_a_list_with_a_sentence_beside() -> None:
    long = "x" * 1000
    error = Refused(
        [
            detail("max_tokens", "Input should be greater than or equal to 1", "greater_than_equal", ctx={"ge": 1}, input=0),
            detail(["body", "tags", 3], "Input should be a valid string", "string_type", input=long),
        ]
    )
    told = json.loads(fal_errors.error(error, "id-1"))
    assert told["message"] == "max_tokens: Input should be greater than or equal to 1"
    assert told["detail"][0] == {
        "loc": ["body", "max_tokens"],
        "msg": "Input should be greater than or equal to 1",
        "type": "greater_than_equal",
        "url": "https://docs.fal.ai/errors#greater_than_equal",
        "ctx": {"ge": 1},
        "input": 0,
    }
    assert len(told["detail"][1]["input"]) == 200 and fal_errors.sentence(told["detail"][1]).startswith("tags: ")
    assert fal_errors.headers(error) == {"x-fal-retryable": "false", "x-fal-needs-retry": "0", "x-fal-billable-units": "0"}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 425, 429, 499, 500, 502, 503, 504, 507])
def test_no_final_status_is_repeated_by_a_client_or_taken_for_another_fault(status: int) -> None:
    shown, headers = fal_errors.final(status, {"error_type": "runner_server_error", "headers": {"x-sensorium-source": "far"}})
    assert shown in (400, 403, 422, 499, 500, 507) and headers["x-sensorium-source"] == "far"
    assert ("x-fal-error-type" in headers) == (status != 422)
