"""`sensorium calls` and `sensorium explain` against a real hub in front of the simulated service, and that hub killed at once."""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sensorium import cli_calls, client
from sensorium.store.database import FILE
from tests.hub_process import free_port, start_hub
from tests.simulators.site import AI, INTEGRATE, KEY, eventually, running
from tests.store.test_calls import FULL, finished
from tests.test_cli import one_line, run

CANARY = "canary-Zq7-prompt"
SETTINGS = """
[local]
enabled = false
[providers.gone]
kind = "openai"
base_url = "http://127.0.0.1:1/v1"
models = ["meta/llama-3.1-8b-instruct"]
[providers.nvidia]
kind = "openai"
base_url = "{site}{integrate}/v1"
key_env = "SIMULATED_KEY"
models = ["meta/llama-3.1-8b-instruct"]
[providers.paint]
kind = "genai"
base_url = "{site}{ai}/v1/genai"
key_env = "SIMULATED_KEY"
models = [{{ id = "black-forest-labs/flux.1-schnell", modality = "image" }}]
"""


def post(url: str, path: str, body: Any, id: str) -> bytes:
    asked = urllib.request.Request(url + path, json.dumps(body).encode(), {"x-request-id": id})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as reply:
        return bytes(reply.read())


def written(folder: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / FILE)) as connection:
        return connection.execute("SELECT id, outcome, tokens_out > 0, images FROM calls ORDER BY number").fetchall()


@pytest.mark.skipif(sys.platform == "win32", reason="the hub is killed by POSIX means")
def test_calls_are_listed_and_explained_and_survive_a_hub_that_is_killed(tmp_path: Path) -> None:
    chat = {"model": "meta/llama-3.1-8b-instruct", "messages": [{"role": "user", "content": CANARY}], "stream": True}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running() as site:
        file = tmp_path / "hub.toml"
        file.write_text(SETTINGS.format(site=f"http://{site.address}", integrate=INTEGRATE, ai=AI), "utf-8")
        with start_hub(tmp_path, port, "--settings", str(file), SIMULATED_KEY=KEY) as process:
            streamed = post(url, "/v1/chat/completions", chat, "first")
            post(url, "/v1/genai/black-forest-labs/flux.1-schnell", {"prompt": CANARY, "steps": 4}, "second")
            assert b'"usage"' not in streamed
            assert streamed.endswith(b"data: [DONE]\n\n")
            eventually(lambda: len(written(tmp_path)) == 2)  # by the hub itself, before anybody asks
            explained, listed = run("explain", "first", hub=url), run("calls", hub=url)
            failed = run("calls", "--outcome", "failed", "--json", hub=url)
            unknown, wrong = run("explain", "never", hub=url), run("calls", "--limit", "0", hub=url)
            process.send_signal(signal.SIGKILL)
            process.wait()
    lines = explained.stdout.decode().splitlines()
    assert lines[0].startswith("call first of local, ")
    assert lines[1] == "  /v1/chat/completions, chat, model meta/llama-3.1-8b-instruct, streamed"
    assert lines[2].startswith("  1. gone meta/llama-3.1-8b-instruct: transport: ")
    assert lines[2].endswith("; 3 in a row close it for 30 s")
    assert lines[3] == "  2. nvidia meta/llama-3.1-8b-instruct: answered"
    assert "tokens_in" in lines[5]
    assert [line.split()[2] for line in listed.stdout.decode().splitlines()[1:]] == ["second", "first"]
    assert json.loads(failed.stdout)["data"] == []
    assert (unknown.returncode, "no record of a call never" in one_line(unknown)) == (1, True)
    assert (wrong.returncode, "limit is '0'" in one_line(wrong)) == (1, True)
    assert written(tmp_path) == [("first", "answered", 1, None), ("second", "answered", None, 1)]
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("sensorium*"))
    assert CANARY.encode() not in kept
    assert KEY.encode() not in kept


def test_without_a_hub_it_says_how_to_start_one() -> None:
    for command in (("calls",), ("explain", "x")):
        result = run(*command, hub=f"http://127.0.0.1:{free_port()}")
        assert (result.returncode, "start one with: sensorium serve" in one_line(result)) == (3, True)


def told(call: Any, **more: Any) -> dict[str, Any]:
    shown = call.shown(7)
    attempts = [{**attempt, "reaction": None} for attempt in shown["attempts"]]
    return {**shown, "attempts": attempts, "count": 1, **more}


def test_what_is_unknown_is_left_out() -> None:
    assert cli_calls.explained(told(finished("bare"))).splitlines() == [
        "call bare of token, 2027-01-15 08:00:00.000 UTC",
        "  /v1/x, chat, model m",
        "  failed with 503, 0.000 s in all, 0 bytes out",
        "  used: unknown",
    ]


def test_everything_that_is_known_is_told() -> None:
    assert cli_calls.explained(told(FULL, count=3)).splitlines() == [
        "call full of token, 2027-01-15 08:00:00.250 UTC",
        "  the newest of 3 calls with this id",
        "  /v1/chat/completions, chat, model *, streamed",
        "  1. a m: transport: gone; again in 1.5 s",
        "  2. here m: answered",
        "  answered with 200, first byte after 0.500 s, 1.250 s in all, 10 bytes in, 20 bytes out",
        "  used: tokens_in 1, tokens_out 2, images 3, seconds 4.5, characters 5",
        "  for: agent a, task t, lease l, command c, request r, fleet f",
    ]
    rows = cli_calls.table({"data": [told(FULL)], "lost": 2}).splitlines()
    assert rows[1].split() == ["2027-01-15", "08:00:00.250", "full", "token", "*", "here", "m", "answered", "200", "1.250", "1/2"]
    assert rows[2] == "2 more could not be recorded"


def test_an_answer_of_another_program_is_one_line() -> None:
    for call in (cli_calls.table, cli_calls.explained):
        with pytest.raises(client.CallFailed, match="the hub did not send"):
            call({"data": [{"id": 3}], "lost": 0})


@pytest.mark.skipif(sys.platform == "win32", reason="the hub is stopped by POSIX means")
def test_a_hub_that_is_stopped_writes_what_waits(tmp_path: Path) -> None:
    port = free_port()
    with running() as site:
        file = tmp_path / "hub.toml"
        file.write_text(SETTINGS.format(site=f"http://{site.address}", integrate=INTEGRATE, ai=AI), "utf-8")
        with start_hub(tmp_path, port, "--settings", str(file), SIMULATED_KEY=KEY):
            post(f"http://127.0.0.1:{port}", "/v1/genai/black-forest-labs/flux.1-schnell", {"prompt": "a cube", "steps": 4}, "last")
    assert written(tmp_path) == [("last", "answered", None, 1)]
