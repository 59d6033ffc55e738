"""A hub that runs the shipped VLM on torch from its settings, and fal's app over it, without change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sensorium.jobs.request import State
from sensorium.model_folders import PACKAGED
from tests.durability.hub import Hub as HubProcess
from tests.durability.hub import eventually
from tests.test_hub_engines import EYE, QUESTION, red

SETTINGS = f"""
[server]
probe_at_start = false
[local]
enabled = false
[engines.eye]
models = [{{ path = "{PACKAGED / "scenes-vlm"}", name = "acme/eye", serves = ["{EYE}"], device = "cpu", slots = 2, context = 512 }}]
wait_s = 60.0
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    made = HubProcess(tmp_path_factory.mktemp("torch"), SETTINGS)
    try:
        made.spawn()
        eventually(lambda: _alive(made), made.said)
        yield made
    finally:
        made.stop()


def _alive(hub: HubProcess) -> bool:
    assert hub.process is not None and hub.process.poll() is None, hub.said()
    try:
        return hub.call("GET", "/healthz").status == 200
    except OSError:
        return False


def test_a_call_that_comes_while_it_is_loaded_waits_and_is_answered(hub: HubProcess) -> None:
    ready = hub.call("GET", "/readyz")  # torch alone takes longer to import than the hub to start
    assert (ready.status, ready.json["engines"]) == (503, {"eye": "starting"})
    told = hub.call("POST", "/v1/chat/completions", QUESTION, timeout=90)
    assert told.status == 200 and "red" in told.json["choices"][0]["message"]["content"]
    assert hub.call("GET", "/readyz").json == {"status": "ready", "engines": {"eye": "ready"}}


def test_the_fal_app_runs_over_it_in_every_mode(hub: HubProcess) -> None:
    for mode in ("diffusion", "ar", "linear"):
        asked = {"image_url": red(), "prompt": "Describe this image.", "max_tokens": 32, "mode": mode}
        told = hub.call("POST", f"/fal/run/{EYE}", asked, timeout=90)
        assert told.status == 200 and "red" in told.json["output"], (mode, told)


def test_its_queue_works_at_as_many_as_it_has_slots(hub: HubProcess) -> None:
    asked = {"image_url": red(), "prompt": "Describe this image.", "max_tokens": 32}
    ids = [hub.call("POST", f"/fal/queue/{EYE}", asked).json["request_id"] for _ in range(6)]
    for id in ids:
        place = f"/fal/queue/{EYE}/requests/{id}"
        eventually(lambda place=place: hub.call("GET", f"{place}/status?wait=0").json["status"] == "COMPLETED", hub.said)
        assert "red" in hub.call("GET", place).json["output"]
    assert hub.rows("SELECT count(*) FROM requests WHERE state = ? AND runs = 1", State.SUCCEEDED) == [(6,)]
