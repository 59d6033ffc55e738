"""The engine dies under its requests: each is run again once, and one that ends every engine is no third time (jobs.md, J-03, J-15)."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sensorium.jobs.request import State
from tests.durability.engine import Act
from tests.durability.hub import APP, Hub, eventually
from tests.durability.rig import Rig, rigged

LOCAL = "[server]\nprobe_at_start = false\n"
ENGINE_KILLS, UNDER_LOAD = 4, 10
LONG = {"num_images": 4, "num_inference_steps": 12}  # a second or two of work


def engines(hub: Hub) -> list[int]:
    """The processes that the hub has started."""
    assert hub.process is not None
    found: list[int] = []
    for task in Path(f"/proc/{hub.process.pid}/task").iterdir():
        with suppress(FileNotFoundError):
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def kill_engine(hub: Hub) -> int:
    """The engine is gone; its process id."""
    (pid,) = engines(hub)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in engines(hub), hub.said)
    return pid


@contextmanager
def shipped(folder: Path) -> Iterator[Hub]:
    """A hub with the shipped models."""
    hub = Hub(folder, LOCAL)
    try:
        yield hub
    finally:
        hub.stop()


def began(hub: Hub, id: str) -> None:
    """Wait until a request is with the engine."""
    eventually(lambda: hub.status(id)["status"] == "IN_PROGRESS", hub.said)
    time.sleep(random.uniform(0.0, 0.3))  # somewhere in its middle


def row(hub: Hub, id: str) -> tuple[State, int, int]:
    ((state, runs, deaths),) = hub.rows("SELECT state, runs, deaths FROM requests WHERE id = ?", id)
    return State(state), runs, deaths


def test_an_engine_that_is_killed_while_it_draws(tmp_path: Path) -> None:
    with shipped(tmp_path) as hub:
        hub.start()
        for number in range(3):
            id = hub.submit(f"a red cube {number}", **LONG).json["request_id"]
            began(hub, id)
            kill_engine(hub)
            hub.ended(id)
            assert row(hub, id) == (State.SUCCEEDED, 2, 1)
            assert hub.file(hub.result(id).json["images"][0]["url"]).status == 200


def test_an_engine_that_is_killed_while_it_starts(tmp_path: Path) -> None:
    with shipped(tmp_path) as hub:
        hub.spawn()
        eventually(lambda: len(engines(hub)) == 1, hub.said)
        kill_engine(hub)
        eventually(hub.ready, hub.said)
        id = hub.submit("a red cube").json["request_id"]
        hub.ended(id)
        state, runs, deaths = row(hub, id)
        assert state is State.SUCCEEDED and runs <= 2 and deaths <= 1


def test_an_engine_that_is_killed_under_load(tmp_path: Path) -> None:
    with shipped(tmp_path) as hub:
        hub.start()
        ids = [hub.submit(f"a red cube {number}", **LONG).json["request_id"] for number in range(UNDER_LOAD)]
        for _ in range(ENGINE_KILLS):
            eventually(lambda: any(row(hub, id)[0] is State.RUNNING for id in ids), hub.said)
            time.sleep(random.uniform(0.0, 0.5))
            eventually(hub.ready, hub.said)  # three that are killed while they start are enough for five minutes
            kill_engine(hub)
        for id in ids:
            told, (state, runs, deaths) = hub.ended(id), row(hub, id)
            assert deaths <= 1 and runs <= 2
            assert state is State.SUCCEEDED or (state is State.FAILED and told["error_type"] == "runner_disconnected"), told
        assert sum(row(hub, id)[0] is State.SUCCEEDED for id in ids) >= UNDER_LOAD - ENGINE_KILLS // 2
        hub.stop()
        hub.check_files()
        hub.check_database()


def poisoned(rig: Rig) -> tuple[str, list[str]]:
    """A request that ends every engine that it meets, and seven that do not."""
    rig.engine.acts["poison"] = [Act(drops=True)] * 20
    rig.hub.start()
    poison, *others = [rig.hub.submit(prompt, hook=rig.hook).json["request_id"] for prompt in ("poison", *"abcdefg")]
    return poison, others


def test_a_request_that_ends_every_engine_fails_after_the_second(tmp_path: Path) -> None:
    with rigged(tmp_path) as rig:
        poison, others = poisoned(rig)
        told = rig.hub.ended(poison)
        assert (rig.row(poison)[0], told["error_type"]) == (State.FAILED, "runner_disconnected")
        assert [ran.attempt for ran in rig.engine.runs("poison")] == [1, 2]
        assert rig.hub.result(poison).status == 500
        for id, prompt in zip(others, "abcdefg", strict=True):
            rig.hub.ended(id)
            rig.check(id, prompt, runs=1, starts=1)
        rig.told(poison)
        assert [got.told["status"] for got in rig.hooks.of(poison)] == ["ERROR"]
        rig.check_all()


def test_without_the_count_of_deaths_it_is_tried_again(tmp_path: Path) -> None:
    """The control."""
    with rigged(tmp_path, off="no-death-count") as rig:
        poison, _ = poisoned(rig)
        eventually(lambda: len(rig.engine.runs("poison")) > 2, lambda: f"{rig.hub.status(poison)}")
        assert rig.hub.call("PUT", f"{APP}/requests/{poison}/cancel").status == 202
        rig.over(poison)


@pytest.mark.parametrize("hub_dies", [False, True])
def test_a_hub_that_dies_is_no_death_of_the_engine(tmp_path: Path, hub_dies: bool) -> None:
    with rigged(tmp_path) as rig:
        rig.engine.acts["a"] = [Act(drops=True), Act(held=True)] if hub_dies else [Act(drops=True)]
        rig.hub.start()
        id = rig.hub.submit("a", hook=rig.hook).json["request_id"]
        if hub_dies:
            eventually(lambda: len(rig.engine.runs("a")) == 2)
            rig.hub.kill()
            rig.hub.start()
        assert rig.over(id) is State.SUCCEEDED
        state, attempt, runs, deaths = rig.row(id)
        assert (state, attempt, runs, deaths) == ((State.SUCCEEDED, 3, 3, 1) if hub_dies else (State.SUCCEEDED, 2, 2, 1))
