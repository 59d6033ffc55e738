"""An engine that the hub runs from its settings, and jobs that will not end, end it, or silence it (jobs.md, J-14 to J-16)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sensorium.jobs.request import State
from sensorium.model_folders import PACKAGED
from tests.durability.hub import Hub, eventually

MODEL = "acme/eye"
APP = f"/fal/queue/{MODEL}"
HANG_S = 5.0
SETTINGS = f"""
[server]
probe_at_start = false
grace_s = 1.0
[local]
enabled = false
[engines.eye]
hang_s = {HANG_S}
models = [{{ path = "{PACKAGED / "scenes-vlm"}", name = "{MODEL}", slots = 8 }}]
"""


@contextmanager
def supervising(folder: Path, *off: str) -> Iterator[Hub]:
    """A hub with one engine, ready; `off` is a protection to do without."""
    made = Hub(folder, SETTINGS, program=("tests.durability.supervising_program", *off))
    try:
        made.start()
        over(made, submitted(made, "other"))  # the first work of all would have more time to let go
        yield made
    finally:
        made.stop()
        made.check_database()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with supervising(tmp_path) as made:
        yield made


def submitted(hub: Hub, prompt: str) -> str:
    answer = hub.call("POST", APP, {"prompt": prompt, "max_tokens": 4})
    assert answer.status == 200, answer
    return str(answer.json["request_id"])


def status(hub: Hub, id: str) -> dict[str, Any]:
    answer = hub.call("GET", f"{APP}/requests/{id}/status?wait=0")
    assert answer.status in (200, 202), answer
    told: dict[str, Any] = answer.json
    return told


def row(hub: Hub, id: str) -> tuple[State, int, int]:
    """State, runs and deaths of a request."""
    ((state, runs, deaths),) = hub.rows("SELECT state, runs, deaths FROM requests WHERE id = ?", id)
    return State(state), runs, deaths


def over(hub: Hub, id: str) -> dict[str, Any]:
    eventually(lambda: status(hub, id)["status"] == "COMPLETED", lambda: f"{status(hub, id)}\n{hub.said()}")
    return status(hub, id)


def worked(hub: Hub, word: str) -> list[int]:
    """The processes in which such a job has begun."""
    file = hub.folder / "journal.txt"
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return [int(line.split()[0]) for line in lines if line.endswith(word)]


def restarts(hub: Hub) -> int:
    return int(hub.call("GET", "/v1/status").json["engines"]["eye"]["restarts"])


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_cancelled_job_that_does_not_stop_ends_with_its_process_and_the_others_go_on(hub: Hub) -> None:
    stuck = submitted(hub, "stuck")
    eventually(lambda: len(worked(hub, "stuck")) == 1, hub.said)
    others = [submitted(hub, f"other {number}") for number in range(3)]
    eventually(lambda: all(row(hub, id)[0] is State.RUNNING for id in others), hub.said)  # behind it in the same process
    assert hub.call("PUT", f"{APP}/requests/{stuck}/cancel").status == 202
    asked = time.monotonic()
    told = over(hub, stuck)
    assert told["error_type"] == "client_cancelled" and time.monotonic() - asked < 6.0
    for id in others:
        over(hub, id)
        state, runs, deaths = row(hub, id)
        assert state is State.SUCCEEDED and deaths == 0 and runs <= 2
    assert row(hub, stuck)[0] is State.CANCELLED
    assert worked(hub, "stuck") == worked(hub, "stuck")[:1] and gone(worked(hub, "stuck")[0])
    assert restarts(hub) == 1


def test_a_job_that_ends_its_process_fails_after_the_second_death_alone_and_its_neighbours_have_none(hub: Hub) -> None:
    ids = {prompt: submitted(hub, prompt) for prompt in ("other a", "other b", "poison", "other c")}
    told = over(hub, ids["poison"])
    assert (row(hub, ids["poison"])[0], told["error_type"]) == (State.FAILED, "runner_disconnected")
    for prompt, id in ids.items():
        if prompt != "poison":
            over(hub, id)
            assert (row(hub, id)[0], row(hub, id)[2]) == (State.SUCCEEDED, 0)
    assert 2 <= len(worked(hub, "poison")) <= 3  # in company, then alone


def test_without_looking_who_was_there_its_neighbours_are_blamed(tmp_path: Path) -> None:
    """The control."""
    with supervising(tmp_path, "no-company") as hub:
        ids = [submitted(hub, prompt) for prompt in ("poison", "other a", "other b", "other c")]
        for id in ids:
            over(hub, id)
        assert any(row(hub, id)[0] is State.FAILED or row(hub, id)[2] for id in ids[1:])


def test_a_process_that_is_stopped_is_ended_and_its_job_runs_in_the_next(hub: Hub) -> None:
    silent = submitted(hub, "silent")
    eventually(lambda: len(worked(hub, "silent")) == 1, hub.said)
    stopped = worked(hub, "silent")[0]
    began = time.monotonic()
    eventually(lambda: gone(stopped), hub.said)
    assert HANG_S - 2.0 < time.monotonic() - began < HANG_S + 5.0
    told = over(hub, silent)
    assert (row(hub, silent)[0], told["error_type"], row(hub, silent)[2]) == (State.FAILED, "runner_disconnected", 1)
    assert len(worked(hub, "silent")) == 2
    after = submitted(hub, "other")
    over(hub, after)
    assert row(hub, after)[0] is State.SUCCEEDED


def test_a_caller_at_another_door_meets_nothing_of_it(hub: Hub) -> None:
    stuck = submitted(hub, "stuck")
    eventually(lambda: len(worked(hub, "stuck")) == 1, hub.said)
    assert hub.call("PUT", f"{APP}/requests/{stuck}/cancel").status == 202
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "other"}], "max_tokens": 4}
    assert hub.call("POST", "/v1/chat/completions", asked).status == 200  # it was lost with the process, and sent again
    assert restarts(hub) == 1
