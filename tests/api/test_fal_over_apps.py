"""fal's doors over the hub's own apps and queue; only the models behind are played."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sensorium.api import fal_queue, fal_run
from sensorium.api.auth import Auth
from sensorium.api.fal_queue import QueueDoor
from sensorium.api.fal_run import RunDoor
from sensorium.api.router import Router
from sensorium.apps import flux, nemotron, queued
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.policy import Outside
from sensorium.jobs.requests import Requests
from sensorium.jobs.results import Results
from sensorium.routing.call import Call, Route
from sensorium.routing.repeat import verdict
from sensorium.store.database import Database
from sensorium.store.writer import Writer
from tests.api.fal_fakes import check_webhook, render
from tests.api.hubs import Hub, LazyUpstream, living
from tests.api.test_fal_queue import events
from tests.apps.stands import Bench, Says
from tests.apps.test_drawing import TOY, drawing
from tests.apps.test_nemotron import ASKED, TOYS, speaking
from tests.serving import serving

VLM, SCHNELL = nemotron.ID, f"{flux.ID}/schnell"


def playing(call: Call, route: Route) -> Any:
    return speaking(call, route) if call.modality == "chat" else drawing(call, route)


@contextmanager
def running(folder: Path) -> Iterator[tuple[Bench, Hub]]:
    bench = Bench((TOYS, TOY), playing)
    with closing(Database(folder)) as database:
        requests = Requests(database, Writer(database))
        lanes = Lanes(4, lambda lane: 1)
        jobs = Jobs(requests, Results(folder), {queued.NAME: queued.work(bench.apps.find)}, lanes, Outside(verdict))
        entries = [*fal_queue.entries(QueueDoor(jobs, bench.apps, check_webhook)), *fal_run.entries(RunDoor(bench.apps))]
        router = Router(entries, Auth(None), render, 1 << 20)
        try:
            with serving(living(router, jobs, LazyUpstream())) as base:
                hub = Hub(base, [])
                yield bench, hub
                hub.close()
        finally:
            requests.close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Bench, Hub]]:
    with running(tmp_path) as both:
        yield both


def result(calls: Hub, app: str, given: dict[str, Any], **headers: str) -> tuple[Any, dict[str, Any], Any]:
    """The reply with a request's result, its last status, and the result's body."""
    said = {name.replace("_", "-"): text for name, text in headers.items()}
    status, told = calls.json("POST", f"/fal/queue/{app}", given, said)
    assert status == 200
    at = told["response_url"].removeprefix(f"http://{calls.address}")
    *_, last = [one for one in events(calls.open("GET", f"{at}/status/stream?logs=1")) if one != ": ping"]
    reply, raw = calls.call("GET", at)
    return reply, last, json.loads(raw)


def test_a_question_about_a_picture_at_every_door(hub: tuple[Bench, Hub]) -> None:
    _, calls = hub
    status, direct = calls.json("POST", f"/fal/run/{VLM}", ASKED)
    assert (status, direct["output"]) == (200, "The box is red.")
    _, raw = calls.call("POST", f"/fal/run/{VLM}/stream", ASKED)
    grown = [json.loads(line[6:]) for line in raw.decode().split("\n\n") if line.startswith("data: ")]
    assert [one["output"] for one in grown][-1] == direct["output"] and len(grown) > 1
    reply, last, queued_ = result(calls, VLM, ASKED)
    assert (reply.status, queued_["output"], queued_.keys()) == (200, direct["output"], direct.keys())
    assert (reply.getheader("x-sensorium-source"), reply.getheader("x-sensorium-place")) == ("local", "local")
    assert last["status"] == "COMPLETED"


def test_a_start_and_an_end_are_logged(hub: tuple[Bench, Hub]) -> None:
    _, calls = hub
    reply, _, _ = result(calls, VLM, ASKED)
    id = reply.getheader("x-fal-request-id")
    lines = [line["message"] for line in calls.json("GET", f"/fal/queue/{VLM}/requests/{id}/status?logs=1")[1]["logs"]]
    assert lines[0].startswith("started") and lines[-1].startswith("finished")


def test_a_picture_below_a_sub_path_is_a_link_on_the_address_that_was_called(hub: tuple[Bench, Hub]) -> None:
    bench, calls = hub
    reply, last, made = result(
        calls, SCHNELL, {"prompt": "a red cube"}, X_Fal_Object_Lifecycle_Preference='{"expiration_duration_seconds": 60}'
    )
    assert (reply.status, last["response_url"].startswith(f"http://{calls.address}/fal/queue/{flux.ID}/requests/")) == (200, True)
    (picture,) = made["images"]
    assert picture["url"].startswith(f"http://{calls.address}/fal/cdn/files/")
    (stored,) = bench.store.files.values()
    assert (stored.owner, stored.request, stored.lifecycle.expires_s) == ("local", reply.getheader("x-fal-request-id"), 60.0)


def test_all_that_is_wrong_with_an_input_is_told_alike(hub: tuple[Bench, Hub]) -> None:
    bench, calls = hub
    bad = {"max_tokens": 0, "threshold": 2}
    direct = calls.json("POST", f"/fal/run/{VLM}", bad)
    assert (direct[0], [one["loc"][-1] for one in direct[1]["detail"]]) == (422, ["image_url", "prompt", "max_tokens", "threshold"])
    assert calls.json("POST", f"/fal/run/{VLM}/stream", bad) == direct
    reply, last, queued_ = result(calls, VLM, bad)
    assert (reply.status, queued_) == direct
    assert (last["error"], last["error_type"]) == (direct[1]["message"], "validation_error")
    assert bench.models.calls == []


def test_where_a_call_may_go_holds_for_a_queued_one_too(hub: tuple[Bench, Hub]) -> None:
    bench, calls = hub
    direct = calls.json("POST", f"/fal/run/{VLM}", ASKED, {"x-sensorium-where": "hosted_only"})
    assert direct[0] in (403, 404)
    reply, last, queued_ = result(calls, VLM, ASKED, x_sensorium_where="hosted_only")
    assert (reply.status, last["error_type"], queued_["error_type"]) == (403, direct[1]["error_type"], direct[1]["error_type"])
    assert bench.models.calls == []


def test_an_engine_that_is_busy_is_429_at_the_direct_door(tmp_path: Path) -> None:
    busy = {"error": {"message": "the queue is full", "type": "rate_limit_error", "code": "busy"}}
    with running(tmp_path) as (bench, calls):
        bench.models.model = lambda call, route: Says(json.dumps(busy).encode(), status=429)
        reply, raw = calls.call("POST", f"/fal/run/{VLM}", ASKED)
        assert (reply.status, reply.getheader("x-fal-needs-retry")) == (429, "1"), raw


def test_what_is_called_without_a_sub_path_that_it_needs_is_unknown(hub: tuple[Bench, Hub]) -> None:
    _, calls = hub
    for method, path in (("POST", f"/fal/queue/{flux.ID}"), ("POST", f"/fal/run/{VLM}/deep"), ("GET", f"/fal/run/{flux.ID}/openapi.json")):
        status, told = calls.json(method, path, {} if method == "POST" else None)
        assert (status, told["detail"].endswith("not found")) == (404, True)
    assert calls.json("GET", f"/fal/queue/{SCHNELL}/openapi.json")[1]["openapi"].startswith("3.")
