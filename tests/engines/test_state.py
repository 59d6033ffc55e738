"""What an engine tells of itself: how far its models are, what they have done, and which doors it has."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

from sensorium.engines.chat import FIELDS
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.endpoint import EngineApp
from sensorium.engines.flow_image.engine import FlowImage
from sensorium.engines.hosted import Hosted, Place
from sensorium.engines.lane import Lane
from sensorium.engines.orders import ModelOrder
from tests.engines.asgi import ask
from tests.engines.diffusion_vlm.checkpoints import write_checkpoint
from tests.engines.flow_image import tiny
from tests.engines.test_endpoint import AUTH, CHAT, CUBE, QUESTION, TOKEN, Script, hosted, serve

RUN = {"image_url": "data:,", "prompt": "?"}


def get(app: EngineApp, path: str) -> tuple[int, dict[str, str], bytes]:
    head, data = asyncio.run(ask(app, "GET", path, headers=AUTH))
    return head.status, head.headers, data


@pytest.mark.parametrize(("path", "body"), [(CHAT, QUESTION), ("/run", RUN), ("/v1/genai/sensorium/flow", CUBE)])
def test_while_models_are_loaded_calls_are_told_to_come_again(path: str, body: Any) -> None:
    seeing = hosted(Script("x"))
    drawing = Hosted(ModelOrder(path="flow"), "flow_image")
    app = EngineApp([seeing, drawing], TOKEN)
    for state, says in (("waiting", "it is waiting"), ("loading", "3.1 of 17.8 GB are")):
        for one in (seeing, drawing):
            one.state = state  # type: ignore[assignment]
            one.advance(3_100_000_000, 17_800_000_000)
        head, data = asyncio.run(ask(app, "POST", path, body, AUTH))
        assert (head.status, head.headers["retry-after"]) == (503, "5")
        assert says in data.decode()


def test_readiness_tells_how_far_each_model_is() -> None:
    first, second = hosted(Script("x")), Hosted(ModelOrder(path="/m/big", device="cuda", dtype="bfloat16"), "diffusion_vlm")
    app = EngineApp([first.ready(Script("x"), Lane("cpu"), Place("numpy", "float32")), second], TOKEN)
    second.state = "loading"
    second.advance(5, 10)
    status, headers, data = get(app, "/readyz")
    assert (status, headers["retry-after"], json.loads(data)["status"]) == (503, "5", "loading")
    assert json.loads(data)["models"] == [
        {"name": "sensorium/script", "state": "ready", "loaded_bytes": 0, "total_bytes": 0},
        {"name": "sensorium/big", "state": "loading", "loaded_bytes": 5, "total_bytes": 10},
    ]
    anybody = asyncio.run(ask(app, "GET", "/readyz"))
    assert (anybody[0].status, json.loads(anybody[1])) == (503, {"status": "loading"})
    assert asyncio.run(ask(app, "POST", CHAT, QUESTION, AUTH))[0].status == 200  # the other one works already
    second.ready(Script("x"), Lane("cuda"), Place("cuda:0", "bfloat16", 8, 4096))
    assert get(app, "/readyz")[0] == 200


def test_progress_is_news_a_limited_number_of_times() -> None:
    one = Hosted(ModelOrder(path="big"), "diffusion_vlm")
    assert sum(one.advance(done, 100_000) for done in range(100_001)) <= 65
    assert (one.loaded_bytes, one.advance(0, 0)) == (100_000, True)


def test_the_list_tells_where_models_run_and_all_their_ids() -> None:
    one = Hosted(ModelOrder(path="x", name="nvidia/vlm", serves=["fal-ai/vlm", "nvidia/vlm"], device="cuda"), "diffusion_vlm")
    one.ready(Script("x"), Lane("cuda"), Place("cuda:0", "bfloat16", 8, 4096))
    told = json.loads(get(EngineApp([one], TOKEN), "/v1/models")[2])["data"]
    assert [entry["id"] for entry in told] == ["nvidia/vlm", "fal-ai/vlm"]
    assert {name: told[0][name] for name in ("device", "dtype", "slots", "context", "state")} == {
        "device": "cuda:0",
        "dtype": "bfloat16",
        "slots": 8,
        "context": 4096,
        "state": "ready",
    }
    head, _ = asyncio.run(ask(EngineApp([one], TOKEN), "POST", CHAT, QUESTION | {"model": "fal-ai/vlm"}, AUTH))
    assert (head.status, head.headers["x-sensorium-model"]) == (200, "nvidia/vlm")


def samples(data: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("sensorium_engine_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(data.decode())
        for sample in family.samples
    }


def test_metrics_count_what_a_real_model_did(tmp_path: Path) -> None:
    model = DiffusionVLM.load(write_checkpoint(tmp_path / "vlm"))
    lane = Lane("cpu")
    app = EngineApp([Hosted(ModelOrder(path="vlm"), "diffusion_vlm").ready(model, lane, Place("numpy", "float32"))], TOKEN)
    spent: list[dict[str, Any]] = []
    for mode in ("diffusion", "linear"):
        _, data = asyncio.run(ask(app, "POST", CHAT, QUESTION | {"model": "*", "max_tokens": 12, "block_length": 8, "mode": mode}, AUTH))
        spent.append(json.loads(data)["usage"])
    _, headers, data = get(app, "/metrics")
    assert headers["content-type"].startswith("text/plain")
    found = samples(data)
    name = "sensorium/vlm"
    assert found["answers_total", name] == found["calls_total", "cpu", "finished"] == 2
    assert found["tokens_total", name] == sum(one["completion_tokens"] for one in spent)
    assert found["prompt_tokens_total", name] == sum(one["prompt_tokens"] for one in spent)
    for purpose in ("prefill", "denoise", "write", "draft", "verify"):
        assert found["forwards_total", name, purpose] == sum(one["forwards"][purpose] for one in spent), purpose
    assert found["acceptance_length", name] == spent[1]["completion_tokens"] / spent[1]["forwards"]["verify"]
    assert (found["slots", name], found["running", "cpu"], found["waiting", "cpu"], found["queue", "cpu"]) == (1, 0, 0, 32)
    assert (found["model_state", name, "ready"], found["model_state", name, "loading"]) == (1, 0)
    assert not any(key[0].startswith("device_") for key in found)  # numpy's memory is the process's


def test_metrics_of_models_that_are_loaded_and_of_drawing_ones(tmp_path: Path) -> None:
    flow = FlowImage.load(tiny.write(tmp_path / "tiny-flow"))
    waiting = Hosted(ModelOrder(path="big", device="cuda"), "diffusion_vlm")
    waiting.advance(3, 9)
    found = samples(get(EngineApp([hosted(flow).ready(flow, Lane("cpu"), Place("numpy", "float32")), waiting], TOKEN), "/metrics")[2])
    assert (found["model_loaded_bytes", "sensorium/big"], found["model_total_bytes", "sensorium/big"]) == (3, 9)
    assert found["model_state", "sensorium/big", "waiting"] == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_doors_are_described_for_the_models_that_are_here(tmp_path: Path) -> None:
    flow = FlowImage.load(tiny.write(tmp_path / "tiny-flow"))
    told = json.loads(get(serve(Script("x"), flow), "/schema")[2])
    validate(told)
    ways = {"/run", "/stream", "/run/sensorium/script", "/stream/sensorium/script", "/v1/chat/completions"}
    assert set(told["paths"]) == ways | {"/v1/genai/sensorium/tiny-flow"}
    schemas = told["components"]["schemas"]
    assert schemas["NemotronDiffusionVLMInput"]["properties"]["block_length"] | {"description": ""} == {
        "type": "integer",
        "minimum": 8,
        "maximum": 128,
        "default": 32,
        "title": "Block Length",
        "description": "",
    }
    assert schemas["ChatBody"]["properties"]["max_tokens"] == {"type": "integer", "minimum": 1, "maximum": 8192, "default": 512}
    assert set(schemas["ChatBody"]["properties"]) == FIELDS - {"user", "store", "metadata", "n", "steps"}
    assert schemas["ChatBody"]["properties"]["model"]["enum"] == ["*", "sensorium/script"]
    assert "/run" not in json.loads(get(serve(flow), "/schema")[2])["paths"]


def test_state_is_told_to_those_who_know_the_token() -> None:
    app = serve(Script("x"))
    for path in ("/metrics", "/schema", "/v1/models"):
        assert asyncio.run(ask(app, "GET", path))[0].status == 401
    assert asyncio.run(ask(app, "GET", "/readyz"))[0].status == 200
