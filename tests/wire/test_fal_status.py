"""The bodies of statuses, and what a poll asks for."""

from __future__ import annotations

import json

import pytest

from sensorium.errors import BadRequest
from sensorium.wire import fal_status
from sensorium.wire.fal_status import Extras, Look, Standing

AT = fal_status.links("http://hub", "acme/echo", "id-1")
URLS = {f"{name}_url": f"http://hub/fal/queue/acme/echo/requests/id-1{end}" for name, end in [("response", ""), ("status", "/status")]}
URLS["cancel_url"] = URLS["response_url"] + "/cancel"


@pytest.mark.parametrize(
    ("query", "look"),
    [
        (b"", Look()),
        (b"logs=1", Look(True)),
        (b"logs=true", Look(True)),
        (b"logs=True", Look(True)),
        (b"logs=0", Look()),
        (b"logs=false&wait=0", Look(False, 0.0)),
        (b"wait=7.5&logs=1&x=y", Look(True, 7.5)),
        (b"wait=9999", Look(False, 25.0)),
        (b"wait=inf", Look(False, 25.0)),
    ],
)
def test_what_a_poll_asks_for(query: bytes, look: Look) -> None:
    assert fal_status.look(query) == look


@pytest.mark.parametrize("query", [b"wait=soon", b"wait=-1", b"wait=nan"])
def test_a_wait_that_is_no_time_is_refused(query: bytes) -> None:
    with pytest.raises(BadRequest):
        fal_status.look(query)


@pytest.mark.parametrize(
    ("now", "body"),
    [
        (Standing("id-1", "IN_QUEUE", AT, Extras(0), position=2, logs=[]), {"queue_position": 2}),
        (Standing("id-1", "IN_PROGRESS", AT, Extras(1)), {"logs": None}),
        (Standing("id-1", "IN_PROGRESS", AT, Extras(1), logs=[]), {"logs": []}),
        (Standing("id-1", "COMPLETED", AT, Extras(1), told={}), {"logs": None, "metrics": {}}),
        (Standing("id-1", "COMPLETED", AT, Extras(1), told={"inference_time": 0.0}), {"logs": None, "metrics": {"inference_time": 0.0}}),
        (
            Standing("id-1", "COMPLETED", AT, Extras(1), told={"error": "it broke"}),
            {"logs": None, "metrics": {}, "error": "it broke", "error_type": "internal_error"},
        ),
    ],
)
def test_statuses(now: Standing, body: dict[str, object]) -> None:
    extras = {"attempt": now.extras.attempt, "eta_seconds": None, "model_state": None}
    assert json.loads(fal_status.status(now)) == {"status": now.word, "request_id": "id-1", **body, **URLS, "sensorium": extras}


def test_lines_have_a_level_that_clients_know_and_a_zone() -> None:
    assert fal_status.line(0.5, "WARN", "x") == {
        "message": "x",
        "level": "WARN",
        "source": "USER",
        "timestamp": "1970-01-01T00:00:00.500000Z",
    }
    assert fal_status.line(0.5, "NOTICE", "x")["level"] == "INFO"
