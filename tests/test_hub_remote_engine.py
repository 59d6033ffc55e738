"""An engine on another address, with a token, as a provider of the hub: private, local, and shown as such."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.durability.hub import Hub as HubProcess
from tests.hub_process import ROOT, hub_environment
from tests.test_cli_engine import FLOW, VLM, address, engine
from tests.test_hub_engines import CUBE, EYE, QUESTION

TOKEN, WRONG = "a-token-of-the-node", "another-token-than-that"
HOST = "127.0.0.2"
SETTINGS = """
[server]
probe_at_start = {tried}
[local]
enabled = false
[providers.node]
kind = "engine"
base_url = "{url}/v1"
key_env = "{variable}"
private = true
models = [
    {{ id = "{vlm}", vision = true }},
    {{ id = "{eye}", vision = true }},
    {{ id = "{flow}", modality = "image", dialect = "genai" }},
]
[providers.elsewhere]
kind = "openai"
base_url = "https://nobody.invalid/v1"
models = [{{ id = "{vlm}", vision = true }}]
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a second loopback address")


def settings(url: str, variable: str = "NODE_TOKEN", tried: str = "false") -> str:
    return SETTINGS.format(url=url, variable=variable, tried=tried, vlm=VLM, eye=EYE, flow=FLOW)


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """Where the engine is."""
    models = ("--model", VLM, "--model", FLOW, "--serves", f"{VLM}={EYE}")
    with engine("--host", HOST, *models, SENSORIUM_ENGINE_TOKEN=TOKEN) as (_, lines):
        yield address(lines)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_TOKEN", TOKEN)
    monkeypatch.setenv("WRONG_TOKEN", WRONG)


@pytest.fixture
def hub(node: str, environment: None, tmp_path: Path) -> Iterator[HubProcess]:
    made = HubProcess(tmp_path, settings(node))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_it_answers_at_every_door_and_its_private_ids_go_nowhere_else(hub: HubProcess, node: str) -> None:
    assert HOST in node
    for model in (VLM, EYE):
        told = hub.call("POST", "/v1/chat/completions", QUESTION | {"model": model})
        assert told.status == 200 and told.headers["x-sensorium-source"] == "node" and told.headers["x-sensorium-place"] == "local"
    drawn = hub.call("POST", f"/v1/genai/{FLOW}", CUBE)
    assert drawn.status == 200 and Image.open(io.BytesIO(base64.b64decode(drawn.json["artifacts"][0]["base64"]))).size
    url = QUESTION["messages"][0]["content"][1]["image_url"]["url"]  # type: ignore[index]
    app = hub.call("POST", f"/fal/run/{EYE}", {"image_url": url, "prompt": "What?", "max_tokens": 16})
    assert app.status == 200 and "red" in app.json["output"]
    elsewhere = hub.call("POST", "/v1/chat/completions", QUESTION | {"model": VLM}, {"x-sensorium-where": "hosted_only"})
    assert (elsewhere.status, elsewhere.json["error"]["code"]) == (403, "placement")


def test_it_is_listed_as_local_and_shown_in_the_status(hub: HubProcess) -> None:
    listed = {
        one["id"]: (one["provider"], one["modality"], one["local"], one["stand_in"]) for one in hub.call("GET", "/v1/models").json["data"]
    }
    assert listed == {
        VLM: ("node", "chat", True, False),
        EYE: ("node", "chat", True, False),
        FLOW: ("node", "image", True, False),
    }
    told = hub.call("GET", "/v1/status").json
    assert told["engines"] == {}  # another machine's process is not this hub's to start
    assert {(one["provider"], one["local"], one["state"]) for one in told["routes"] if one["provider"] == "node"} == {
        ("node", True, "open")
    }


def test_a_wrong_token_is_told_to_the_operator(node: str, environment: None, tmp_path: Path) -> None:
    made = HubProcess(tmp_path, settings(node, "WRONG_TOKEN"))
    try:
        made.start()
        told = made.call("POST", "/v1/chat/completions", QUESTION | {"model": EYE})
        assert told.status in (401, 503) and TOKEN not in json.dumps(told.json) and WRONG not in json.dumps(told.json)
    finally:
        made.stop()


def test_doctor_calls_it(node: str, environment: None, tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text(settings(node).partition("[providers.elsewhere]")[0], "utf-8")
    command = [sys.executable, "-m", "sensorium.cli", "doctor", "--settings", str(file), "--data-dir", str(tmp_path), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=hub_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert {(one["provider"], one["model"]): one["state"] for one in report["routes"]} == {
        ("node", VLM): "works",
        ("node", EYE): "works",
        ("node", FLOW): "works",
    }
