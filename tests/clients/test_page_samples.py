"""The samples of the app's page, as they stand there, with nothing but the client's configuration before them.

What they make is printed by a line behind them. Their picture lies on a host of the internet: where that cannot be reached, the
answer says so, and the same samples are run with a picture on this machine.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.clients.conftest import APP, KEY, Rig
from tests.hub_process import ROOT, hub_environment

SAMPLES = ROOT / "tests" / "clients" / "samples"
PICTURE = "https://storage.googleapis.com/falserverless/example_inputs/dog.png"
ID = "764cabcf-b745-4b3e-ae38-1200304cf45b"
CATCH = "process.on('uncaughtException', (e) => { console.log(JSON.stringify({ status: e.status, body: e.body })); process.exit(9); });"


@pytest.fixture(params=["proxy", "middleware", "fetch"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(rig: Rig, installed: Path, way: str, name: str, made: str = "null", **changes: str) -> tuple[int, list[str]]:
    """The exit code and the lines of a sample, the last of which is `made`, an expression; `changes` are of its text."""
    text = (SAMPLES / f"{name}.mjs").read_text("utf-8")
    for before, after in ((PICTURE, changes.get("picture")), (ID, changes.get("id"))):
        text = text.replace(before, after or before)
    command = ["node", "--import", "./configure.mjs", "--input-type=module", "-e", f"{CATCH}\n{text}\nconsole.log(JSON.stringify({made}));"]
    env = hub_environment(HUB=rig.hub, KEY=KEY, WAY=way)
    done = subprocess.run(command, cwd=installed, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 9), done.stderr
    return done.returncode, done.stdout.splitlines()


def test_subscribe(shipped: Rig, installed: Path, way: str) -> None:
    code, lines = run(shipped, installed, way, "subscribe", "result.data", picture=f"{shipped.at}/box.png")
    told = json.loads(lines[-1])
    assert (code, bool(told["output"]), told["usage"]["completion_tokens"] > 0, told["timings"]["total_time"] > 0) == (0, True, True, True)
    assert len(lines[-2]) == 36  # the request's id, which the sample prints


def test_subscribe_with_the_pages_own_picture(shipped: Rig, installed: Path, way: str) -> None:
    code, lines = run(shipped, installed, way, "subscribe", "result.data")
    told = json.loads(lines[-1])
    if code == 0:
        assert told["output"]
        return
    fault = told["body"]["detail"][0]
    assert (told["status"], fault["type"], fault["loc"]) == (422, "file_download_error", ["body", "image_url"])
    assert fault["msg"] == "Failed to download the file. Please check if the URL is accessible and try again."


def test_submit_status_and_result(shipped: Rig, installed: Path, way: str) -> None:
    code, lines = run(shipped, installed, way, "submit", "request_id", picture=f"{shipped.at}/box.png")
    assert code == 0
    id = json.loads(lines[-1])
    status = {"status": ""}
    while status["status"] != "COMPLETED":
        code, lines = run(shipped, installed, way, "status", "status", id=id)
        status = json.loads(lines[-1])
        assert (code, status["status"] in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")) == (0, True)
    code, lines = run(shipped, installed, way, "result", "result", id=id)
    told = json.loads(lines[-1])
    assert (code, bool(told["data"]["output"]), told["requestId"]) == (0, True, id)


@pytest.mark.parametrize("name", ["status", "result"])
def test_the_pages_own_request_is_unknown_here(shipped: Rig, installed: Path, way: str, name: str) -> None:
    code, lines = run(shipped, installed, way, name)
    told = json.loads(lines[-1])
    assert (code, told["status"], told["body"]["status"]) == (9, 404, "NOT_FOUND")


def test_upload(shipped: Rig, installed: Path, way: str) -> None:
    code, lines = run(shipped, installed, way, "upload", "url")
    url = json.loads(lines[-1])
    assert (code, url.startswith(shipped.hub)) == (0, True)
    with urllib.request.urlopen(url, timeout=30) as reply:
        assert (reply.read(), reply.headers.get_content_type()) == (b"Hello, World!", "text/plain")


def test_the_input_with_every_field(shipped: Rig) -> None:
    body = (SAMPLES / "every.json").read_text("utf-8").replace(PICTURE, f"{shipped.at}/box.png")
    asked = urllib.request.Request(f"{shipped.hub}/fal/run/{APP}", body.encode(), {"authorization": f"Key {KEY}"})
    with urllib.request.urlopen(asked, timeout=60) as reply:
        told = json.loads(reply.read())
    assert told["output"] and told["usage"]["num_function_evals"] >= 2
