"""The whole hub as a process: it survives its engine, finishes what is in flight, and leaves no engine behind."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from sensorium import app
from sensorium.engines.supervisor import EngineProcess
from sensorium.live import Source
from sensorium.options import Local
from sensorium.routing.call import Call, Record
from sensorium.routing.dispatch import Dispatch, Parts
from sensorium.routing.health import Health
from sensorium.routing.upstream import Upstream
from sensorium.settings import Settings, load
from sensorium.store.database import Database, StoreUnavailable
from sensorium.store.vault import Vault
from sensorium.wire import jsonbody
from tests.hub_process import free_port, hub_command, hub_environment, running_hub, start_hub
from tests.simulators.site import AI
from tests.simulators.site import running as site

FLUX_DEV = "black-forest-labs/flux.1-dev"
DEV = f"/v1/genai/{FLUX_DEV}"
REFUSED = "403 auth: Authorization failed; replace the key IMAGE_KEY"


def post(url: str, path: str, body: Any) -> dict[str, Any]:
    call = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(call, timeout=60) as reply:
        answer: dict[str, Any] = json.load(reply)
        return answer


def drawn(url: str, steps: int = 5) -> bytes:
    body = {"prompt": "a red cube on a white table", "steps": steps, "seed": 3}
    return base64.b64decode(post(url, DEV, body)["artifacts"][0]["base64"])


def engine_pids(data_dir: Path) -> list[int]:
    return [int(pid) for pid in re.findall(r"is ready after .* \(process (\d+)\)", (data_dir / "hub.log").read_text("utf-8"))]


def eventually(what: Callable[[], bool], seconds: float = 20.0) -> None:
    give_up = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < give_up, "it did not happen in time"
        threading.Event().wait(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    with running_hub(tmp_path) as url:
        yield url, tmp_path


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_killed_engine_is_replaced_and_the_next_call_is_answered(own: tuple[str, Path]) -> None:
    url, data_dir = own
    before = drawn(url)
    (pid,) = engine_pids(data_dir)
    os.kill(pid, signal.SIGKILL)
    assert drawn(url) == before
    assert len(engine_pids(data_dir)) == 2


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_call_that_loses_its_engine_is_answered_by_the_next(tmp_path: Path) -> None:
    settings = load(None, os.environ, data_dir=tmp_path)
    records: list[Record] = []

    async def running(engine: EngineProcess) -> int:
        key = {"authorization": f"Bearer {engine.token}"}
        async with aiohttp.ClientSession() as session, session.get(f"{engine.base_url}/v1/lane", headers=key) as reply:
            return int((await reply.json())["running"])

    async def main() -> bytes:
        upstream = Upstream()
        async with EngineProcess("local", list(app.shipped_models()), environment=dict(os.environ)) as engine:
            await engine.wait_ready()
            dispatch = Dispatch(app.catalog(settings, engine), Parts(upstream.send, records.append, Health(time.monotonic), time.monotonic))
            members = jsonbody.members(b'{"prompt": "a red cube on a white table", "steps": 100, "seed": 3}')
            asking = asyncio.ensure_future(dispatch(Call("r1", FLUX_DEV, "image", ("genai",), FLUX_DEV, members)))
            while not await running(engine):
                assert not asking.done()
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            body = await (await asking).whole()
            assert engine.restarts == 1
        await upstream.close()
        return body

    picture = base64.b64decode(json.loads(asyncio.run(main()))["artifacts"][0]["base64"])
    assert Image.open(io.BytesIO(picture)).size == (1024, 1024)
    assert [record.outcome for record in records] == ["answered"]


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stopping_hub_finishes_what_is_in_flight(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    port = free_port()
    body = json.dumps({"prompt": "a red cube on a white table", "steps": 20, "seed": 3}).encode()
    head = f"POST {DEV} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
    with start_hub(tmp_path, port) as process, socket.create_connection(("127.0.0.1", port), timeout=60) as caller:
        caller.sendall(head.encode())
        assert b"100 Continue" in caller.recv(4096)  # the handler is running: it asked for the body
        caller.sendall(body)
        process.send_signal(sent)
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
        assert process.wait(30) == code
        assert not alive(engine_pids(tmp_path)[-1])
    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["artifacts"][0]["finishReason"] == "SUCCESS"


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_killed_hub_leaves_no_engine_behind(tmp_path: Path) -> None:
    with start_hub(tmp_path, free_port()) as process:
        pid = engine_pids(tmp_path)[-1]
        process.kill()
        process.wait()
        eventually(lambda: not alive(pid))


def test_a_taken_port_is_told_in_one_line(hub: str, tmp_path: Path) -> None:
    command = hub_command(tmp_path, int(hub.rsplit(":", 1)[1]))
    done = subprocess.run(command, env=hub_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "another program listens there; choose another with --port" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_second_hub_on_one_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as first:
        first.keep_hubs_off()
        command = hub_command(tmp_path, 0)
        done = subprocess.run(command, env=hub_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sensorium: {tmp_path}: another hub runs on this folder; stop it, or use another server.data_dir\n"


def test_a_hub_that_misses_a_required_modality_does_not_start(tmp_path: Path) -> None:
    command = hub_command(tmp_path, 0, "--require", "image,video")
    done = subprocess.run(command, env=hub_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sensorium: video is required: not configured; turn on: router.video (URL + key)\n"


def get(url: str, path: str) -> Any:
    with urllib.request.urlopen(url + path, timeout=10) as reply:
        return json.load(reply)


def listed(url: str) -> set[str]:
    return {model["id"] for model in get(url, "/v1/models")["data"]}


def chat_table(*models: str, url: str = "http://127.0.0.1:9/v1", tried: bool = False) -> str:
    """Settings without an engine, and with a chat provider; `tried` lets the hub call it after the start."""
    hub = f"[local]\nenabled = false\n[server]\nprobe_at_start = {json.dumps(tried)}\n"
    return hub + f'[router.chat]\nurl = "{url}"\nkey = "none"\nmodels = {json.dumps(models)}\n'


def test_a_changed_settings_file_is_taken_over_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text(chat_table("one"), "utf-8")
    with running_hub(tmp_path, "--settings", str(file)) as url:
        assert listed(url) == {"one"}
        file.write_text(chat_table("one", "two"), "utf-8")
        eventually(lambda: listed(url) == {"one", "two"})
        file.write_text("[router.chat\n", "utf-8")
        eventually(lambda: "not valid TOML" in " ".join(get(url, "/v1/status")["settings"]["problems"]))
        assert listed(url) == {"one", "two"}
    assert "is not taken over, the settings before go on" in (tmp_path / "said.txt").read_text("utf-8")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP on this system")
def test_sighup_takes_the_settings_file_over(tmp_path: Path) -> None:
    file, port = tmp_path / "hub.toml", free_port()
    file.write_text(chat_table("one"), "utf-8")
    with start_hub(tmp_path, port, "--settings", str(file)) as process:
        before = file.stat()
        file.write_text(chat_table("two"), "utf-8")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # so that its watch sees nothing
        process.send_signal(signal.SIGHUP)
        eventually(lambda: listed(f"http://127.0.0.1:{port}") == {"two"})


def test_a_hub_says_at_start_whose_key_is_refused_and_its_first_caller_is_told_at_once(tmp_path: Path) -> None:
    with site() as simulated:
        file = tmp_path / "hub.toml"
        image_url = f"http://{simulated.address}{AI}/v1/genai"
        file.write_text(f'[local]\nenabled = false\n[router.image]\nurl = "{image_url}"\nkey_env = "IMAGE_KEY"\n', "utf-8")
        with running_hub(tmp_path, "--settings", str(file), IMAGE_KEY="nvapi-wrong") as url:
            eventually(lambda: REFUSED in (tmp_path / "said.txt").read_text("utf-8"))
            told = get(url, "/v1/status")["modalities"]["image"]
            calls = len(simulated.get("/simulator/calls").json)
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                post(url, DEV, {"prompt": "a red cube", "steps": 5, "seed": 0})
            refused.value.close()
            assert len(simulated.get("/simulator/calls").json) == calls
    assert (told["on"], told["detail"]) == (False, f"router.image: {REFUSED}")


def test_a_required_modality_whose_provider_cannot_be_reached_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text(chat_table("one", url=f"http://127.0.0.1:{free_port()}/v1", tried=True), "utf-8")
    command = hub_command(tmp_path, 0, "--settings", str(file), "--require", "chat")
    done = subprocess.run(command, env=hub_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "sensorium: chat is required: router.chat: router.chat cannot be reached" in done.stderr


def test_a_store_that_fails_at_the_stop_does_not_keep_the_rest_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[str] = []

    def broken(vault: Vault) -> None:
        raise StoreUnavailable("the disk is gone")

    def close(database: Database) -> None:
        closed.append("database")
        whole(database)

    whole = Database.close
    monkeypatch.setattr(Vault, "flush", broken)
    monkeypatch.setattr(Database, "close", close)
    monkeypatch.setattr(app, "_log_to", lambda folder: None)
    settings = load(None, {}, data_dir=tmp_path, port=free_port()).model_copy(update={"local": Local(enabled=False)})
    assert asyncio.run(app.run(settings, lambda table: signal.raise_signal(signal.SIGTERM))) is False
    assert closed == ["database"]
    assert "the last uses of secrets are missing in the audit: the disk is gone" in caplog.text


def test_what_a_hub_writes_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(settings: Settings, *_: object) -> bool:
        (tmp_path / "written").touch()
        app._log_to(tmp_path / "data")
        return False

    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr(logging, "basicConfig", lambda **given: [handler.close() for handler in given["handlers"]])
    before = os.umask(0o022)
    try:
        app.serve(Source(None, Settings), print)
    finally:
        os.umask(before)
    modes = {
        place.name: oct(place.stat().st_mode & 0o777)
        for place in (tmp_path / "written", tmp_path / "data", tmp_path / "data" / app.LOG_FILE)
    }
    assert modes == {"written": "0o600", "data": "0o700", app.LOG_FILE: "0o600"}
