"""A hub that runs engines from its settings: the package's models under names of the operator's, in processes of their own."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from sensorium import app, local_engines
from sensorium.engines.supervisor import EngineProcess, Progress
from sensorium.model_folders import PACKAGED
from sensorium.settings import load
from tests.api.hubs import Hub, LazyUpstream, living
from tests.durability.hub import Hub as HubProcess
from tests.durability.hub import eventually
from tests.serving import serving
from tests.store.vaults import opened

EYE = "fal-ai/nemotron-diffusion-vlm"
DEV, SCHNELL = "black-forest-labs/flux.1-dev", "black-forest-labs/flux.1-schnell"
SETTINGS = f"""
[server]
probe_at_start = true

[engines.eye]
private = true
models = [{{ path = "{PACKAGED / "scenes-vlm"}", name = "acme/eye", serves = ["{EYE}"], pinned = true }}]

[engines.brush]
private = false
queue = 4
models = [{{ path = "{PACKAGED / "scenes-flow"}", name = "acme-brush", serves = ["{DEV}"] }}]
"""
CUBE = {"prompt": "a red cube on a white table", "steps": 5, "seed": 3}


def red() -> str:
    """A picture with something red on white, as a data URL."""
    picture = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(picture).rectangle((80, 80, 180, 180), fill="red")
    out = io.BytesIO()
    picture.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


QUESTION = {
    "model": "acme/eye",
    "max_tokens": 16,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": red()}}]}],
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    made = HubProcess(tmp_path_factory.mktemp("engines"), SETTINGS)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def pids(hub: HubProcess, name: str) -> list[int]:
    """The processes that an engine has had, as the hub's log tells."""
    lines = (hub.folder / "hub.log").read_text("utf-8").splitlines()
    return [int(line.rpartition("(process ")[2].rstrip(")")) for line in lines if f"engine {name} is ready" in line]


def test_its_models_are_listed_under_all_their_names_and_no_stand_in_has_one_of_them(hub: HubProcess) -> None:
    listed = {one["id"]: one for one in hub.call("GET", "/v1/models").json["data"]}
    shown = {id: (one["provider"], one["modality"], one["local"], one["stand_in"], one["callable"]) for id, one in listed.items()}
    assert shown["acme/eye"] == shown[EYE] == ("eye", "chat", True, False, True)
    assert shown["acme-brush"] == shown[DEV] == ("brush", "image", True, False, True)
    assert shown[SCHNELL] == ("local", "image", True, True, True)
    assert listed["acme/eye"]["capabilities"] == ["text", "vision"]


def test_they_answer_at_every_door(hub: HubProcess) -> None:
    for model in ("acme/eye", EYE):
        told = hub.call("POST", "/v1/chat/completions", QUESTION | {"model": model})
        assert (told.status, told.json["model"]) == (200, "acme/eye")
        assert told.headers["x-sensorium-source"] == "eye" and "red" in told.json["choices"][0]["message"]["content"]
    for path in (f"/v1/genai/{DEV}", "/v1/genai/acme-brush"):
        drawn = hub.call("POST", path, CUBE | {"width": 1024, "height": 1024})
        assert drawn.status == 200 and drawn.headers["x-sensorium-source"] == "brush"
        assert Image.open(io.BytesIO(base64.b64decode(drawn.json["artifacts"][0]["base64"]))).size == (1024, 1024)
    made = hub.call("POST", "/v1/images/generations", {"model": "acme-brush", "prompt": CUBE["prompt"], "size": "512x512"})
    assert made.status == 200 and made.headers["x-sensorium-source"] == "brush"


def test_the_fal_apps_use_them_without_change(hub: HubProcess) -> None:
    asked = {"image_url": red(), "prompt": "Describe this image.", "max_tokens": 32, "block_length": 8}
    told = hub.call("POST", f"/fal/run/{EYE}", asked)
    assert told.status == 200 and "red" in told.json["output"] and told.json["usage"]["num_function_evals"] > 0
    drawn = hub.call("POST", "/fal/run/fal-ai/flux/dev", {"prompt": CUBE["prompt"], "num_inference_steps": 5, "image_size": "square"})
    assert drawn.status == 200
    assert (drawn.json["images"][0]["width"], drawn.json["images"][0]["height"]) == (512, 512)
    places = {one["model"]: one["provider"] for one in hub.call("GET", "/v1/status").json["routes"]}
    assert (places[EYE], places[DEV]) == ("eye", "brush")


def test_each_engine_is_shown(hub: HubProcess) -> None:
    told = hub.call("GET", "/v1/status").json
    assert {name: (one["state"], one["problems"]) for name, one in told["engines"].items()} == {
        name: ("ready", []) for name in ("local", "eye", "brush")
    }
    assert hub.call("GET", "/readyz").json == {"status": "ready", "engines": {"local": "ready", "eye": "ready", "brush": "ready"}}
    page = hub.call("GET", "/metrics").body.decode()
    assert 'sensorium_engine_state{engine="eye",state="ready"} 1.0' in page
    assert 'sensorium_engine_restarts_total{engine="brush"}' in page
    assert {one["tried"] is None for one in told["routes"]} == {True}  # what the hub runs itself is not tried by calls


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_one_that_dies_is_replaced_and_the_others_go_on(hub: HubProcess) -> None:
    before = {name: pids(hub, name) for name in ("local", "eye", "brush")}
    os.kill(before["eye"][-1], signal.SIGKILL)
    assert hub.call("POST", "/v1/chat/completions", QUESTION).status == 200
    after = {name: pids(hub, name) for name in ("local", "eye", "brush")}
    assert len(after["eye"]) == len(before["eye"]) + 1
    assert (after["local"], after["brush"]) == (before["local"], before["brush"])


def test_a_changed_table_waits_for_a_restart_and_is_told(hub: HubProcess) -> None:
    file = hub.folder / "sensorium.toml"
    try:
        file.write_text(SETTINGS.replace("queue = 4", "queue = 5"), "utf-8")
        told = hub.call("POST", "/v1/settings/reload").json
        assert (told["changed"], told["needs_restart"]) == ([], ["engines"])
        assert hub.call("GET", "/v1/status").json["settings"]["needs_restart"] == ["engines"]
        assert hub.call("POST", f"/v1/genai/{DEV}", CUBE).status == 200
    finally:
        file.write_text(SETTINGS, "utf-8")
        hub.call("POST", "/v1/settings/reload")


def test_all_engines_end_with_the_hub(tmp_path: Path) -> None:
    made = HubProcess(tmp_path, SETTINGS.replace("[server]", "[local]\nenabled = false\n\n[server]"))
    made.start()
    found = [pid for name in ("eye", "brush") for pid in pids(made, name)]
    assert len(found) == 2 and pids(made, "local") == []
    made.stop()
    for pid in found:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_engine_whose_models_cannot_be_loaded_says_why_and_the_rest_is_served(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}", "utf-8")
    table = f'[engines.big]\nlicence_acknowledged = true\nmodels = [{{ path = "{broken}", name = "acme/big", device = "numpy" }}]\n'
    made = HubProcess(tmp_path, SETTINGS + table)
    try:
        made.spawn()
        eventually(lambda: _state(made, "big") == "failed" and _state(made, "eye") == "ready", made.said)
        told = made.call("POST", "/v1/chat/completions", QUESTION | {"model": "acme/big"})
        assert told.status == 503 and "config.json" in told.json["error"]["message"], told.json
        assert made.call("POST", "/v1/chat/completions", QUESTION).status == 200
        ready = made.call("GET", "/readyz")
        assert (ready.status, ready.json["engines"]["big"]) == (503, "failed")
        assert {one["id"]: one["callable"] for one in made.call("GET", "/v1/models").json["data"]}["acme/big"] is False
    finally:
        made.stop()


def _state(hub: HubProcess, name: str) -> str:
    assert hub.process is not None and hub.process.poll() is None, hub.said()
    try:
        return str(hub.call("GET", "/v1/status").json["engines"][name]["state"])
    except OSError:
        return ""


@contextmanager
def loading(folder: Path, table: str) -> Iterator[tuple[Hub, EngineProcess]]:
    """A hub in this process whose one engine is said to have loaded 4 of 16 GB, and is never started."""
    file = folder / "hub.toml"
    model = f'models = [{{ path = "{PACKAGED / "scenes-vlm"}", name = "acme/eye" }}]'
    file.write_text(f"[local]\nenabled = false\n\n[engines.gpu]\n{model}\n{table}", "utf-8")
    settings = load(file, {}, data_dir=folder)
    (engine,) = local_engines.processes(settings)
    with opened(folder) as vault:
        upstream = LazyUpstream()
        engine.state, engine.progress = "starting", [Progress("acme/eye", "loading", 4 * 10**9, 16 * 10**9)]
        engine.patience.age_s = 5.0
        built = app.build(settings, None, upstream.send, vault, own=[engine])
        try:
            with serving(living(built.router, built.durable.jobs, upstream)) as base:
                made = Hub(base, [])
                try:
                    yield made, engine
                finally:
                    made.close()
        finally:
            asyncio.run(engine.stop())


def test_how_far_the_loading_is_stands_everywhere(tmp_path: Path) -> None:
    with loading(tmp_path, "wait_s = 0\n") as (hub, _):
        status, told = hub.json("GET", "/v1/status")
        assert told["engines"]["gpu"] == {
            "state": "starting",
            "restarts": 0,
            "problems": [],
            "loading": [{"model": "acme/eye", "state": "loading", "loaded_bytes": 4 * 10**9, "total_bytes": 16 * 10**9}],
        }
        (route,) = told["routes"]
        reason = "its models are being loaded: 4.0 of 16.0 GB, now acme/eye"
        assert (status, route["state"], route["reason"], route["next_try_s"]) == (200, "loading", reason, 15.0)
        assert told["modalities"]["chat"]["on"] is True
        assert hub.json("GET", "/readyz") == (503, {"status": "not ready", "engines": {"gpu": "starting"}, "loaded": {"gpu": 0.25}})
        page = hub.call("GET", "/metrics")[1].decode()
        assert 'sensorium_engine_loaded_ratio{engine="gpu"} 0.25' in page
        assert 'sensorium_routes{modality="chat",provider="gpu",state="loading"} 1.0' in page
        reply, raw = hub.call("POST", "/v1/chat/completions", QUESTION)
        error = json.loads(raw)["error"]
        assert (reply.status, reply.getheader("retry-after"), error["code"]) == (503, "15", "model_loading")
        assert reason in error["message"]


def test_a_request_of_the_queue_waits_in_the_queue_while_models_are_loaded(tmp_path: Path) -> None:
    with loading(tmp_path, "wait_s = 0\n") as (hub, _):
        status, told = hub.json("POST", "/fal/queue/acme/eye", {"prompt": "What?", "image_url": red()})
        assert status == 200
        for _ in range(3):
            at = hub.json("GET", f"/fal/queue/acme/eye/requests/{told['request_id']}/status")[1]
            assert (at["status"], at["queue_position"]) == ("IN_QUEUE", 0)
