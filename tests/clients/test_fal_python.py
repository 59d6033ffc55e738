"""The official Python client of fal, unmodified, against a real hub: every call it has, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import itertools
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fal_client
import httpx
import pytest
from PIL import Image

from tests.clients.conftest import APP, KEY, Rig
from tests.clients.site import ANSWER, FAIL, SIZE, WAIT, WHOLE, png
from tests.clients.tls import authority
from tests.hub_process import ROOT, hub_environment, running_hub
from tests.simulators.site import eventually

PICTURE = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
LARGE = 101 * 1024 * 1024
# The client leaves the connections open that it uploads with. They are closed within each test, where that may be passed over.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
names = (f"py{number}" for number in itertools.count())
HTTPError = fal_client.client.FalClientHTTPError


def asked(prompt: str = "What colour is the box?", **more: Any) -> dict[str, Any]:
    return {"image_url": PICTURE, "prompt": prompt, **more}


def lead_to(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the five constants of the module at a hub."""
    module = fal_client.client
    monkeypatch.setattr(module, "RUN_URL_FORMAT", f"{hub}/fal/run/")
    monkeypatch.setattr(module, "QUEUE_URL_FORMAT", f"{hub}/fal/queue/")
    monkeypatch.setattr(module, "REST_URL", f"{hub}/fal/rest")
    monkeypatch.setattr(module, "CDN_URL", f"{hub}/fal/cdn")
    monkeypatch.setattr(module, "REALTIME_URL_FORMAT", f"{hub.replace('http', 'ws', 1)}/fal/run/")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def here(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    lead_to(rig.hub, monkeypatch)
    return rig


@pytest.fixture
def client(here: Rig) -> Iterator[fal_client.SyncClient]:
    client = fal_client.SyncClient(key=KEY, default_timeout=60)
    yield client
    client._client.close()


def with_async(work: Callable[[fal_client.AsyncClient], Any]) -> Any:
    """Run `work` with an asynchronous client."""

    async def inside() -> Any:
        client = fal_client.AsyncClient(key=KEY, default_timeout=60)
        try:
            return await work(client)
        finally:
            await (await client._client).aclose()

    return asyncio.run(inside())


def site(rig: Rig, path: str, method: str = "GET") -> Any:
    with urllib.request.urlopen(urllib.request.Request(rig.at + path, method=method), timeout=60) as reply:
        return json.loads(reply.read())


def fetched(url: str) -> tuple[str, str]:
    """Content type and hash of a file."""
    reply = httpx.get(url, timeout=60)
    reply.raise_for_status()
    return reply.headers["content-type"].partition(";")[0], hashlib.sha256(reply.content).hexdigest()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def large() -> bytes:
    return b"".join(number.to_bytes(4096, "little") for number in range(LARGE // 4096))


# ---- run, queue


def test_run(client: fal_client.SyncClient) -> None:
    told = client.run(APP, asked())
    assert (told["output"], set(told)) == (WHOLE, {"output", "usage", "timings"})
    assert with_async(lambda one: one.run(APP, asked()))["output"] == WHOLE


def test_run_by_get(client: fal_client.SyncClient) -> None:
    """The client sends no input by GET: the app says what it lacks."""
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        client.run(APP, asked(), method="GET")
    assert (refused.value.status_code, refused.value.message[0]["type"]) == (422, "missing")


def test_submit_status_result(client: fal_client.SyncClient, here: Rig) -> None:
    gate = next(names)
    handle = client.submit(APP, asked(WAIT + gate), hint="lora-1", priority="normal", start_timeout=30)
    assert handle.status_url == f"{here.hub}/fal/queue/{APP}/requests/{handle.request_id}/status"
    site(here, f"/arrived/{gate}")
    running = handle.status(with_logs=True)
    assert isinstance(running, fal_client.InProgress) and running.logs
    assert isinstance(client.status(APP, handle.request_id), fal_client.InProgress)
    waiting = client.submit(APP, asked(), priority="low")
    queued = client.status(APP, waiting.request_id, with_logs=True)
    assert isinstance(queued, fal_client.Queued) and queued.position == 0
    site(here, f"/gate/{gate}", "POST")
    assert handle.get()["output"] == client.result(APP, handle.request_id)["output"] == WHOLE
    done = client.status(APP, handle.request_id, with_logs=True)
    assert isinstance(done, fal_client.Completed) and done.logs and done.metrics["inference_time"] > 0
    assert waiting.get()["output"] == WHOLE


def test_iter_events_and_subscribe(client: fal_client.SyncClient) -> None:
    events = list(client.submit(APP, asked()).iter_events(with_logs=True, interval=0.02))
    assert isinstance(events[-1], fal_client.Completed)
    updates: list[Any] = []
    enqueued: list[str] = []
    told = client.subscribe(APP, asked(), with_logs=True, interval=0.02, on_enqueue=enqueued.append, on_queue_update=updates.append)
    assert (told["output"], len(enqueued), type(updates[-1])) == (WHOLE, 1, fal_client.Completed)


def test_the_queue_asynchronously(here: Rig) -> None:
    async def work(client: fal_client.AsyncClient) -> None:
        handle = await client.submit(APP, asked())
        events = [event async for event in handle.iter_events(with_logs=True, interval=0.02)]
        assert isinstance(events[-1], fal_client.Completed)
        assert (await handle.get())["output"] == (await client.result(APP, handle.request_id))["output"] == WHOLE
        assert isinstance(await client.status(APP, handle.request_id, with_logs=True), fal_client.Completed)
        updates: list[Any] = []
        told = await client.subscribe(APP, asked(), with_logs=True, interval=0.02, on_queue_update=updates.append)
        assert (told["output"], type(updates[-1])) == (WHOLE, fal_client.Completed)

    with_async(work)


def test_cancel(client: fal_client.SyncClient, here: Rig) -> None:
    gate, other = next(names), next(names)
    handle = client.submit(APP, asked(WAIT + gate))
    site(here, f"/arrived/{gate}")
    waiting = client.submit(APP, asked())
    for one, cancel in ((waiting, waiting.cancel), (handle, lambda: client.cancel(APP, handle.request_id))):
        cancel()
        with pytest.raises(HTTPError) as gone:
            one.get()
        assert (gone.value.status_code, gone.value.error_type) == (499, "client_cancelled")
        with pytest.raises(HTTPError) as again:
            one.cancel()
        assert again.value.status_code == 400
    site(here, f"/left/{gate}")

    async def work(client: fal_client.AsyncClient) -> None:
        handle = await client.submit(APP, asked(WAIT + other))
        await asyncio.to_thread(site, here, f"/arrived/{other}")
        await handle.cancel()
        await asyncio.to_thread(site, here, f"/left/{other}")

    with_async(work)


def test_a_client_that_waits_no_longer_cancels(client: fal_client.SyncClient, here: Rig) -> None:
    gate, other = next(names), next(names)
    with pytest.raises(fal_client.FalClientTimeoutError) as late:
        client.subscribe(APP, asked(WAIT + gate), client_timeout=1.5)
    site(here, f"/left/{gate}")
    assert late.value.request_id

    async def work(client: fal_client.AsyncClient) -> None:
        with pytest.raises(fal_client.FalClientTimeoutError):
            await client.subscribe(APP, asked(WAIT + other), client_timeout=1.5)

    with_async(work)
    site(here, f"/left/{other}")


def test_a_request_that_did_not_start_in_time(client: fal_client.SyncClient, here: Rig) -> None:
    gate = next(names)
    first = client.submit(APP, asked(WAIT + gate))
    site(here, f"/arrived/{gate}")
    late = client.submit(APP, asked(), start_timeout=1.1)
    with pytest.raises(HTTPError) as refused:
        late.get()
    assert (refused.value.status_code, refused.value.error_type) == (504, "request_timeout")
    assert refused.value.response_headers["x-fal-request-timeout-type"] == "user"
    site(here, f"/gate/{gate}", "POST")
    assert first.get()["output"] == WHOLE


def test_a_webhook(client: fal_client.SyncClient, here: Rig) -> None:
    name = next(names)
    handle = client.submit(APP, asked(), webhook_url=f"{here.at}/hook/{name}?x=1&y=2")
    body = json.loads(site(here, f"/hook/{name}")["body"])
    assert (body["request_id"], body["status"], body["payload"]["output"]) == (handle.request_id, "OK", WHOLE)
    path = f"{here.hub}/v1/requests/{handle.request_id}"
    headers = {"authorization": f"Key {KEY}"}
    eventually(lambda: httpx.get(f"{path}/deliveries", headers=headers).json()["state"] == "delivered")
    assert httpx.post(f"{path}/redeliver", headers=headers).status_code == 202
    eventually(lambda: len(here.site.posted[name]) == 2)
    assert {one["headers"]["webhook-id"] for one in here.site.posted[name]} == {here.site.posted[name][0]["headers"]["webhook-id"]}


def test_the_operator_sees_the_requests_of_all(client: fal_client.SyncClient, here: Rig) -> None:
    gate = next(names)
    other = fal_client.SyncClient(key="other:s")
    handle = other.submit(APP, asked(WAIT + gate))
    site(here, f"/arrived/{gate}")

    def jobs(*arguments: str, token: str = KEY) -> list[str]:
        env = hub_environment(MAC_HUB_URL=here.hub, MAC_API_TOKEN=token)
        command = [sys.executable, "-m", "sensorium.cli", "jobs", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()

    assert jobs("show", handle.request_id)[0] == f"request {handle.request_id} of other: running"
    assert [line.split()[2] for line in jobs("list", "--state", "running", token="other:s")[1:]] == [handle.request_id]
    assert jobs("cancel", handle.request_id, token="other:s")[0].startswith(f"{handle.request_id}: ")
    site(here, f"/left/{gate}")
    with pytest.raises(HTTPError):
        handle.get()
    assert jobs("show", handle.request_id)[0] == f"request {handle.request_id} of other: cancelled"
    site(here, f"/gate/{gate}", "POST")
    assert jobs("retry", handle.request_id, token="other:s")[0].startswith(f"{handle.request_id}: ")
    assert handle.get()["output"] == WHOLE
    other._client.close()


# ---- errors


def test_an_input_that_cannot_be(client: fal_client.SyncClient) -> None:
    for call in (client.run, client.subscribe):
        with pytest.raises(HTTPError) as refused:
            call(APP, {"image_url": PICTURE, "max_tokens": 0})
        assert refused.value.status_code == 422
        assert [one["type"] for one in refused.value.message] == ["missing", "greater_than_equal"]


def test_what_is_not_there_and_who_is_unknown(client: fal_client.SyncClient) -> None:
    with pytest.raises(HTTPError, match="Application 'nobody/nothing' not found"):
        client.run("nobody/nothing", {})
    with pytest.raises(HTTPError) as unknown:
        client.status(APP, "764cabcf-b745-4b3e-ae38-1200304cf45b")
    assert unknown.value.status_code == 404
    stranger = fal_client.SyncClient(key="k1:wrong")
    with pytest.raises(HTTPError, match="No user found for Key ID and Secret") as nobody:
        stranger.run(APP, asked())
    assert nobody.value.status_code == 401
    stranger._client.close()


def test_anothers_request_is_not_there(client: fal_client.SyncClient) -> None:
    mine = client.submit(APP, asked())
    mine.get()
    other = fal_client.SyncClient(key="other:s")
    for look in (other.status, other.result, other.cancel):
        with pytest.raises(HTTPError) as refused:
            look(APP, mine.request_id)
        assert refused.value.status_code == 404
    assert other.run(APP, asked())["output"] == WHOLE
    other._client.close()


def test_a_model_that_fails(client: fal_client.SyncClient) -> None:
    with pytest.raises(HTTPError) as refused:
        client.subscribe(APP, asked(FAIL))
    assert refused.value.status_code == 500 and refused.value.error_type


# ---- streams


def test_stream(client: fal_client.SyncClient, here: Rig) -> None:
    gate = next(names)
    stream = client.stream(APP, asked(WAIT + gate))
    assert next(stream) == {"output": ANSWER[0]}
    site(here, f"/gate/{gate}", "POST")
    *_, last = stream
    assert (last["output"], set(last)) == (WHOLE, {"output", "usage", "timings"})

    async def work(client: fal_client.AsyncClient) -> list[Any]:
        return [event async for event in client.stream(APP, asked())]

    assert with_async(work)[-1]["output"] == WHOLE


@pytest.mark.parametrize("use_jwt", [True, False])
def test_realtime(client: fal_client.SyncClient, use_jwt: bool) -> None:
    with client.realtime(APP, use_jwt=use_jwt, max_buffering=2) as connection:
        connection.send(asked())
        assert (connection.recv() or {})["output"] == WHOLE
        connection.send(asked(SIZE))
        assert (connection.recv() or {})["output"] == "8 x 6"
        connection.send({"prompt": "no picture"})
        with pytest.raises(fal_client.client.RealtimeError):
            connection.recv()
    with client.ws_connect(APP, use_jwt=use_jwt, path="/realtime") as socket:
        socket.send(fal_client.client.msgpack_encode_message(asked()))
        assert fal_client.client.msgpack_decode_message(socket.recv())["output"] == WHOLE


@pytest.mark.parametrize("use_jwt", [True, False])
def test_realtime_asynchronously(here: Rig, use_jwt: bool) -> None:
    async def work(client: fal_client.AsyncClient) -> None:
        async with client.realtime(APP, use_jwt=use_jwt) as connection:
            await connection.send(asked())
            assert (await connection.recv() or {})["output"] == WHOLE

    with_async(work)


# ---- files


def test_upload(client: fal_client.SyncClient, here: Rig) -> None:
    url = client.upload(b"Hello, World!", "text/plain", "hello.txt", lifecycle=fal_client.StorageSettings(expires_in="1h"))
    assert (url.startswith(f"{here.hub}/fal/cdn/files/"), fetched(url)) == (True, ("text/plain", sha(b"Hello, World!")))
    again = client.upload("Hello, World!", "text/plain", repository="fal")
    assert fetched(again) == ("text/plain", sha(b"Hello, World!"))
    other = with_async(lambda one: one.upload(b"Hello, World!", "text/plain"))
    assert fetched(other) == ("text/plain", sha(b"Hello, World!"))


def test_a_file_and_a_picture(client: fal_client.SyncClient, here: Rig, tmp_path: Path) -> None:
    path = tmp_path / "box.png"
    path.write_bytes(png(5, 3))
    assert fetched(client.upload_file(path)) == ("image/png", sha(png(5, 3)))
    assert fetched(with_async(lambda one: one.upload_file(path))) == ("image/png", sha(png(5, 3)))
    picture = Image.new("RGB", (7, 2), "blue")
    for url in (client.upload_image(picture, "png"), with_async(lambda one: one.upload_image(picture, "png"))):
        assert client.run(APP, {"image_url": url, "prompt": SIZE})["output"] == "7 x 2"
    assert client.run(APP, {"image_url": fal_client.encode_image(picture, "png"), "prompt": SIZE})["output"] == "7 x 2"
    assert client.run(APP, {"image_url": fal_client.encode_file(path), "prompt": SIZE})["output"] == "5 x 3"
    assert client.run(APP, {"image_url": fal_client.encode(png(), "image/png"), "prompt": SIZE})["output"] == "8 x 6"


def test_a_large_file_goes_in_parts(client: fal_client.SyncClient, tmp_path: Path) -> None:
    data = large()
    path = tmp_path / "large.bin"
    path.write_bytes(data)
    expected = ("application/octet-stream", sha(data))
    assert fetched(client.upload_file(path)) == expected
    assert fetched(client.upload(data, "application/octet-stream")) == expected
    assert fetched(with_async(lambda one: one.upload_file(path))) == expected


def test_no_key_and_no_token_is_written_anywhere(client: fal_client.SyncClient, here: Rig) -> None:
    other = fal_client.SyncClient(key="other:s")
    client.upload(b"x", "text/plain")
    with client.realtime(APP) as connection:
        connection.send(asked())
        connection.recv()
    other.run(APP, asked())
    other._client.close()
    written = b"".join(path.read_bytes() for path in here.folder.rglob("*") if path.is_file() and path.suffix != ".toml")
    assert b"/fal/run/" in written  # the log is among it
    for secret in (KEY.encode(), b"s3cret", b"other:s", b"fal_jwt_token"):
        assert secret not in written


# ---- by the environment, over TLS

TLS_SETTINGS = """
[server]
probe_at_start = false
tls_port = {port}
tls_cert = "{certificate}"
tls_key = "{key}"
[local]
enabled = false
[providers.talk]
kind = "openai"
base_url = "{site}/v1"
models = [{{ id = "{app}", vision = true }}]
"""

PROGRAM = """
import json, sys, fal_client
told = {"run": fal_client.run(sys.argv[1], json.loads(sys.argv[2]))["output"]}
updates = []
told["subscribe"] = fal_client.subscribe(sys.argv[1], json.loads(sys.argv[2]), with_logs=True, on_queue_update=updates.append)["output"]
told["last"] = type(updates[-1]).__name__
told["stream"] = [event["output"] for event in fal_client.stream(sys.argv[1], json.loads(sys.argv[2]))][-1]
handle = fal_client.submit(sys.argv[1], json.loads(sys.argv[2]))
told["urls"] = [handle.status_url, handle.response_url, handle.cancel_url]
told["result"] = handle.get()["output"]
with fal_client.realtime(sys.argv[1], use_jwt=False) as connection:
    connection.send(json.loads(sys.argv[2]))
    told["realtime"] = connection.recv()["output"]
print(json.dumps(told))
"""


def test_by_environment_variables_over_tls(rig: Rig, tmp_path: Path) -> None:
    made = authority(tmp_path)
    port = made.port
    settings = tmp_path / "hub.toml"
    settings.write_text(
        TLS_SETTINGS.format(port=port, certificate=made.certificate, key=made.key, site=rig.at, app=APP),
        "utf-8",
    )
    with running_hub(tmp_path, "--settings", str(settings), MAC_API_TOKEN=KEY):
        hosts = {"FAL_RUN_HOST": f"127.0.0.1:{port}/fal/run", "FAL_QUEUE_RUN_HOST": f"127.0.0.1:{port}/fal/queue"}
        env = hub_environment(FAL_KEY=KEY, SSL_CERT_FILE=str(made.authority), HOME=str(tmp_path), **hosts)
        command = [sys.executable, "-c", PROGRAM, APP, json.dumps(asked())]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {name: told[name] for name in ("run", "subscribe", "stream", "result", "realtime")} == dict.fromkeys(
        ("run", "subscribe", "stream", "result", "realtime"), WHOLE
    )
    assert (told["last"], all(url.startswith(f"https://127.0.0.1:{port}/fal/queue/") for url in told["urls"])) == ("Completed", True)
