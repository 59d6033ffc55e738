"""fal's doors over the real queue, on disk, with an app that a test can hold."""

from __future__ import annotations

import asyncio
import json
import threading
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
from sensorium.apps import queued
from sensorium.apps.app import Output, Task
from sensorium.errors import Unavailable
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.policy import Outside
from sensorium.jobs.requests import Requests
from sensorium.jobs.results import Results
from sensorium.routing.repeat import verdict
from sensorium.store.database import Database
from sensorium.store.writer import Writer
from tests.api.fal_fakes import ECHO, Echo, FakeApps, check_webhook, render
from tests.api.hubs import Hub, LazyUpstream, living
from tests.api.test_fal_queue import events
from tests.serving import serving

QUEUE, REQUESTS = f"/fal/queue/{ECHO}", f"/fal/queue/{ECHO}/requests"


class Held(Echo):
    """Runs wait until they are `let` go; those with `fails` in the input fail so many times before."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Semaphore(0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._going = asyncio.Event()

    async def run(self, task: Task) -> Output:
        task.log("at work")
        made = await super().run(task)
        if len([one for one in self.tasks if one.id == task.id]) <= task.input.get("fails", 0):
            raise Unavailable("nobody is there", retry_after=0)
        if task.input.get("waits"):
            self._loop = asyncio.get_running_loop()
            self.began.release()
            await self._going.wait()
        task.log("done")
        return made

    def let(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._going.set)


@contextmanager
def running(folder: Path) -> Iterator[tuple[Held, Hub]]:
    """A hub whose queue runs one request at a time."""
    app = Held()
    apps = FakeApps(app)
    with closing(Database(folder)) as database:
        requests = Requests(database, Writer(database))
        jobs = Jobs(requests, Results(folder), {queued.NAME: queued.work(apps.find)}, Lanes(1, lambda lane: 1), Outside(verdict))
        entries = [*fal_queue.entries(QueueDoor(jobs, apps, check_webhook)), *fal_run.entries(RunDoor(apps))]
        router = Router(entries, Auth(None), render, 4096)
        try:
            with serving(living(router, jobs, LazyUpstream())) as base:
                hub = Hub(base, [])
                yield app, hub
                hub.close()
        finally:
            requests.close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Held, Hub]]:
    with running(tmp_path) as both:
        yield both


def submit(hub: Hub, given: dict[str, Any], **headers: str) -> str:
    status, told = hub.json("POST", QUEUE, given, {name.replace("_", "-"): text for name, text in headers.items()})
    assert status == 200
    return str(told["request_id"])


def over(hub: Hub, id: str) -> dict[str, Any]:
    """The last event of the request's status stream: it ends with the request."""
    reply = hub.open("GET", f"{REQUESTS}/{id}/status/stream?logs=1")
    *_, last = [one for one in events(reply) if one != ": ping"]
    return dict(last)


def test_a_request_from_its_submission_to_its_result(hub: tuple[Held, Hub]) -> None:
    app, calls = hub
    id = submit(calls, {"prompt": "x", "waits": True}, X_Fal_Object_Lifecycle_Preference='{"expiration_duration_seconds": 60}')
    assert app.began.acquire(timeout=10)
    behind = submit(calls, {"prompt": "y"})
    status, told = calls.json("GET", f"{REQUESTS}/{id}/status?logs=1")
    assert (status, told["status"], told["sensorium"]["attempt"]) == (202, "IN_PROGRESS", 1)
    assert [line["message"] for line in told["logs"]] == ["at work"]
    status, told = calls.json("GET", f"{REQUESTS}/{behind}/status")
    assert (status, told["status"], told["queue_position"]) == (202, "IN_QUEUE", 0)
    assert calls.json("GET", f"{REQUESTS}/{id}")[0] == 400
    stream = calls.open("GET", f"{REQUESTS}/{id}/status/stream?logs=1")
    told = events(stream)
    assert next(told)["status"] == "IN_PROGRESS"
    app.let()
    rest = [one for one in told if one != ": ping"]
    assert [line["message"] for one in rest for line in one["logs"]] == ["done"]
    assert rest[-1]["status"] == "COMPLETED" and rest[-1]["metrics"]["inference_time"] > 0
    reply, raw = calls.call("GET", f"{REQUESTS}/{id}")
    assert (reply.status, json.loads(raw)["path"]) == (200, "")
    assert (reply.getheader("x-fal-request-id"), reply.getheader("x-sensorium-source")) == (id, "echoes")
    assert [line["message"] for line in calls.json("GET", f"{REQUESTS}/{id}/status?logs=true")[1]["logs"]] == ["at work", "done"]
    task = app.tasks[0]
    assert (task.id, task.caller, task.base_url, task.lifecycle.expires_s) == (id, "local", f"http://{calls.address}", 60.0)
    assert over(calls, behind)["status"] == "COMPLETED"
    listed = calls.json("GET", f"{REQUESTS}?status=COMPLETED&limit=1")[1]
    assert [one["request_id"] for one in listed["requests"]] == [behind] and listed["after"] == behind


def test_a_waiting_request_is_cancelled_at_once_and_a_running_one_soon(hub: tuple[Held, Hub]) -> None:
    app, calls = hub
    first = submit(calls, {"prompt": "x", "waits": True})
    assert app.began.acquire(timeout=10)
    second = submit(calls, {"prompt": "y"})
    assert calls.json("PUT", f"{REQUESTS}/{second}/cancel")[0] == 202
    assert calls.json("GET", f"{REQUESTS}/{second}")[0] == 499
    assert calls.json("PUT", f"{REQUESTS}/{second}/cancel") == (400, {"status": "ALREADY_COMPLETED"})
    assert calls.json("PUT", f"{REQUESTS}/{first}/cancel")[0] == 202
    last = over(calls, first)
    assert (last["status"], last["error_type"]) == ("COMPLETED", "client_cancelled")
    assert calls.json("GET", f"{REQUESTS}/{first}")[0] == 499


def test_a_faulty_input_ends_in_the_apps_own_words(hub: tuple[Held, Hub]) -> None:
    _, calls = hub
    id = submit(calls, {"waits": True})
    last = over(calls, id)
    assert (last["error"], last["error_type"]) == ("prompt: Field required", "validation_error")
    reply, raw = calls.call("GET", f"{REQUESTS}/{id}")
    assert (reply.status, json.loads(raw)["detail"][0]["type"], reply.getheader("x-fal-retryable")) == (422, "missing", "false")


def test_a_request_is_run_again_and_says_so(hub: tuple[Held, Hub]) -> None:
    _, calls = hub
    id = submit(calls, {"prompt": "x", "fails": 1})
    last = over(calls, id)
    assert (last["status"], last["sensorium"]["attempt"], last.get("error")) == ("COMPLETED", 2, None)
    lines = [line["message"] for line in calls.json("GET", f"{REQUESTS}/{id}/status?logs=1")[1]["logs"]]
    assert lines[0] == "at work" and lines[1].startswith("attempt 1 ended") and lines[2:] == ["at work", "done"]


def test_a_failure_for_good_is_500_with_its_type(hub: tuple[Held, Hub]) -> None:
    _, calls = hub
    id = submit(calls, {"prompt": "x", "fails": 99}, X_Fal_No_Retry="1")
    last = over(calls, id)
    reply, raw = calls.call("GET", f"{REQUESTS}/{id}")
    assert (reply.status, json.loads(raw)["error_type"]) == (500, last["error_type"])
    assert reply.getheader("x-fal-error-type") == last["error_type"]


def test_a_key_brings_back_the_first_request(hub: tuple[Held, Hub]) -> None:
    _, calls = hub
    first = submit(calls, {"prompt": "x"}, Idempotency_Key="k")
    reply, raw = calls.call("POST", QUEUE, {"prompt": "x"}, {"Idempotency-Key": "k"})
    assert (json.loads(raw)["request_id"], reply.getheader("idempotent-replayed")) == (first, "true")
    status, told = calls.json("POST", QUEUE, {"prompt": "y"}, {"Idempotency-Key": "k"})
    assert (status, told["detail"][0]["loc"]) == (422, ["header", "idempotency-key"])


def test_a_long_poll_hears_of_the_end(hub: tuple[Held, Hub]) -> None:
    app, calls = hub
    id = submit(calls, {"prompt": "x", "waits": True})
    assert app.began.acquire(timeout=10)
    calls.json("GET", f"{REQUESTS}/{id}/status")
    app.let()
    while (told := calls.json("GET", f"{REQUESTS}/{id}/status?wait=20"))[0] == 202:
        assert told[1]["status"] == "IN_PROGRESS"
    assert told[1]["status"] == "COMPLETED"


def test_results_outlive_the_hub(tmp_path: Path) -> None:
    with running(tmp_path) as (_, calls):
        id = submit(calls, {"prompt": "x"})
        over(calls, id)
    with running(tmp_path) as (_, calls):
        assert calls.json("GET", f"{REQUESTS}/{id}")[1] == {"echo": {"prompt": "x"}, "path": ""}
        assert calls.json("GET", f"{REQUESTS}/{id}/status?logs=1")[1]["status"] == "COMPLETED"
