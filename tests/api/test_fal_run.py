"""fal's door of direct calls over an app in memory: whole outputs, streams, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensorium.api import fal_run, fal_tokens
from sensorium.api.auth import Auth
from sensorium.api.fal_auth import FalAuth
from sensorium.api.fal_run import RunDoor
from sensorium.api.fal_tokens import Tokens
from sensorium.api.router import Router
from sensorium.errors import Busy, DeadlineExceeded, Forbidden, SensoriumError, Unavailable, Unprocessable, UpstreamFailed, UpstreamRefused
from sensorium.store.signing import Signing
from sensorium.wire import fal_errors
from sensorium.wire.lifecycle import KEPT
from tests.api.fal_fakes import DEEP, ECHO, Echo, FakeApps, Place, doors
from tests.api.hubs import Hub
from tests.serving import serving
from tests.store.vaults import opened

RUN = f"/fal/run/{ECHO}"


@pytest.fixture
def place() -> Iterator[Place]:
    with doors() as place:
        yield place


@pytest.mark.parametrize("end", ["", "/"])
def test_an_output_is_answered_bare(place: Place, end: str) -> None:
    headers = {"X-Fal-Object-Lifecycle-Preference": '{"expiration_duration_seconds": 60}', "X-Fal-Request-Timeout": "20"}
    reply, raw = place.hub.call("POST", f"/fal/run/{DEEP}{end}", {"prompt": "x", "n": 1.5}, headers)
    assert (reply.status, json.loads(raw)) == (200, {"echo": {"prompt": "x", "n": 1.5}, "path": "/deep/er"})
    assert (reply.getheader("content-type"), reply.getheader("x-sensorium-source")) == ("application/json", "echoes")
    (task,) = place.app.tasks
    assert (task.id, task.caller, task.base_url) == (reply.getheader("x-fal-request-id"), "local", f"http://{place.hub.address}")
    assert task.lifecycle.expires_s == 60.0


def test_the_input_of_a_get_is_its_query(place: Place) -> None:
    status, told = place.hub.json("GET", f"{RUN}?prompt=x+y&n=5&tag=a&tag=b&tag=c&fal_jwt_token=t&empty=")
    assert (status, told["echo"]) == (200, {"prompt": "x y", "n": "5", "tag": ["a", "b", "c"], "empty": ""})
    assert place.app.tasks[0].lifecycle == KEPT


def test_an_app_describes_itself(place: Place) -> None:
    for door in ("run", "queue"):
        status, told = place.hub.json("GET", f"/fal/{door}/{DEEP}/openapi.json")
        assert (status, told["servers"], told["info"]["title"]) == (200, [{"url": f"http://{place.hub.address}"}], DEEP)


def test_no_body_is_an_empty_input(place: Place) -> None:
    reply, raw = place.hub.call("POST", RUN)
    told = json.loads(raw)
    assert (reply.status, told["detail"][0]["type"], told["message"]) == (422, "missing", "prompt: Field required")
    assert [reply.getheader(f"x-fal-{name}") for name in ("retryable", "needs-retry", "billable-units")] == ["false", "0", "0"]
    assert place.hub.call("POST", RUN, b"hello")[0].status == 422


ERRORS = [
    (Busy("no slot is free", retry_after=3), 429, "concurrent_requests_limit"),
    (Unavailable("nobody is there"), 503, "runner_scheduling_failure"),
    (UpstreamFailed("it broke"), 500, "runner_server_error"),
    (DeadlineExceeded("it took too long"), 504, "request_timeout"),
    (SensoriumError("the hub failed"), 500, "internal_error"),
    (Forbidden("not for you", code="placement"), 403, "placement"),
    (UpstreamRefused("timed out there", status=408, code="upstream_failed", source="far"), 500, "runner_server_error"),
    (UpstreamRefused("a conflict there", status=409, code="semantic", source="far"), 400, "bad_request"),
]


@pytest.mark.parametrize(("error", "status", "kind"), ERRORS, ids=[kind for _, _, kind in ERRORS])
def test_errors_are_told_in_fals_words(place: Place, error: SensoriumError, status: int, kind: str) -> None:
    place.app.error = error
    reply, raw = place.hub.call("POST", RUN, {"prompt": "x"})
    told = json.loads(raw)
    assert (reply.status, told["error_type"], reply.getheader("x-fal-error-type")) == (status, kind, kind)
    assert told["detail"] == told["message"] == error.message
    assert told["request_id"] == reply.getheader("x-fal-request-id")
    assert reply.getheader("x-fal-request-timeout-type") == ("user" if status == 504 else None)
    assert reply.getheader("x-fal-needs-retry") == ("1" if status == 429 else None)
    assert reply.getheader("x-sensorium-source") == getattr(error, "source", "hub")


def test_a_parameter_outside_its_rules_is_a_list_of_one(place: Place) -> None:
    place.app.error = Unprocessable("seed must be a whole number", param="seed")
    status, told = place.hub.json("POST", RUN, {"prompt": "x"})
    assert (status, told["detail"][0]["loc"], told["detail"][0]["type"]) == (422, ["body", "seed"], "value_error")
    place.app.error = Unprocessable("this cannot be")
    assert place.hub.json("POST", RUN, {"prompt": "x"})[1]["detail"][0]["loc"] == ["body"]


@pytest.mark.parametrize("path", ["/fal/run/nobody/nothing", f"{RUN}/no/such", "/fal/run/nobody/nothing/stream", "/fal/run/nobody"])
def test_an_unknown_app_is_404(place: Place, path: str) -> None:
    reply, raw = place.hub.call("POST", path, {"prompt": "x"})
    app = path.removeprefix("/fal/run/").removesuffix("/stream")
    assert (reply.status, json.loads(raw)["detail"]) == (404, f"Application '{app}' not found")
    assert reply.getheader("x-fal-request-id") and reply.getheader("x-sensorium-source") == "hub"


@pytest.mark.parametrize("path", ["../x", "acme/%2e%2e/echo", "acme//echo", "acme/e%20cho", "x" * 201, "acme/echo%00", ""])
def test_a_path_that_is_not_plain_names_nothing(place: Place, path: str) -> None:
    reply, raw = place.hub.call("POST", f"/fal/run/{path}", {"prompt": "x"})
    assert reply.status in (400, 404) and json.loads(raw)["detail"] and place.app.tasks == []


def events(raw: bytes) -> list[Any]:
    frames = raw.decode().split("\n\n")
    assert frames.pop() == ""
    return [json.loads(frame.removeprefix("data: ")) if frame.startswith("data: ") else frame for frame in frames]


def test_a_stream_tells_the_output_as_it_grows(place: Place) -> None:
    gate = asyncio.Event()

    def opened() -> asyncio.Event:
        """Open once a ping has gone out, of which the second wait tells."""
        asyncio.get_running_loop().create_task(_opened(place, gate))
        return gate

    place.app.gate = opened
    reply, raw = place.hub.call("POST", f"{RUN}/stream/", {"prompt": "x"})
    assert (reply.status, reply.getheader("content-type")) == (200, "text/event-stream")
    assert reply.getheader("x-fal-request-id") == place.app.tasks[0].id and reply.getheader("x-sensorium-source") == "hub"
    told = events(raw)
    assert sorted(told, key=str) == sorted([": ping", {"output": "one"}, {"output": "one two", "usage": {"completion_tokens": 2}}], key=str)
    assert told[-1]["usage"] == {"completion_tokens": 2}


async def _opened(place: Place, gate: asyncio.Event) -> None:
    await place.pinged.wait()
    gate.set()


def test_a_stream_that_is_refused_does_not_begin(place: Place) -> None:
    reply, raw = place.hub.call("POST", f"{RUN}/stream", {})
    assert (reply.status, json.loads(raw)["detail"][0]["type"]) == (422, "missing")


def test_a_stream_that_breaks_ends_in_an_error(place: Place) -> None:
    place.app.breaks = UpstreamFailed("it broke")
    told = [one for one in events(place.hub.call("POST", f"{RUN}/stream", {"prompt": "x"})[1]) if one != ": ping"]
    assert told == [{"output": "one"}, {"error": "it broke", "error_type": "runner_server_error"}]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_told_which_there_are(place: Place, method: str) -> None:
    reply, raw = place.hub.call(method, RUN)
    assert (reply.status, reply.getheader("allow"), json.loads(raw)["error_type"]) == (405, "POST, GET", "bad_request")


@pytest.mark.parametrize(("name", "value"), [("X-Fal-Request-Timeout", "soon"), ("X-Fal-Object-Lifecycle-Preference", "{")])
def test_a_header_that_cannot_be_read_is_a_bad_request(place: Place, name: str, value: str) -> None:
    status, told = place.hub.json("POST", RUN, {"prompt": "x"}, {name: value})
    assert (status, told["error_type"], place.app.tasks) == (400, "bad_request", [])


def test_a_page_streams_with_a_token_instead_of_a_key(tmp_path: Path) -> None:
    with opened(tmp_path) as vault:
        tokens, app = Tokens(Signing(vault)), Echo()
        entries = [*fal_run.entries(RunDoor(FakeApps(app))), *fal_tokens.entries(tokens)]
        with serving(Router(entries, FalAuth(Auth("t0ken"), tokens), lambda path: fal_errors.error, 4096)) as base:
            hub = Hub(base, [])
            wanted = {"allowed_apps": ["echo"]}
            token = hub.json("POST", "/fal/rest/tokens/", wanted, {"authorization": "Key t0ken"})[1]
            assert hub.call("POST", f"{RUN}/stream?fal_jwt_token={token}", {"prompt": "x"})[0].status == 200
            assert (app.tasks[0].caller, app.tasks[0].input) == ("token", {"prompt": "x"})
            for path in (f"{RUN}/stream", f"{RUN}?fal_jwt_token=", f"{RUN}?fal_jwt_token={token}x"):
                assert hub.call("POST", path, {"prompt": "x"})[0].status == 401
            assert hub.call("POST", f"/fal/run/acme/other?fal_jwt_token={token}", {"prompt": "x"})[0].status == 401
            assert hub.call("POST", f"/fal/rest/tokens/?fal_jwt_token={token}", wanted)[0].status == 401
            assert hub.json("POST", RUN, {"prompt": "x"})[1]["detail"] == "Authorization header is required"
            unknown = hub.json("POST", RUN, {"prompt": "x"}, {"authorization": "Key wrong"})[1]
            assert unknown["detail"] == "No user found for Key ID and Secret"
