"""The official `fal-client` package, unmodified, against the hub's own doors, with a queue and an app in memory behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sensorium.errors import UpstreamFailed
from tests.api.fal_fakes import DEEP, ECHO, Place, doors

fal_client = pytest.importorskip("fal_client", reason="fal-client comes with the extra `oracles`")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Place]]:
    """The official client, led here by its module constants; each look moves a request on by one state."""
    with doors(steps=True) as place:
        monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", f"http://{place.hub.address}/fal/queue/")
        monkeypatch.setattr(fal_client.client, "RUN_URL_FORMAT", f"http://{place.hub.address}/fal/run/")
        client = fal_client.SyncClient(key="k1:s3cret", default_timeout=30)
        yield client, place
        client._client.close()


def test_the_official_client_submits_looks_and_gets(client: tuple[Any, Place]) -> None:
    fal, place = client
    handle = fal.submit(DEEP, {"prompt": "x"}, hint="h1", priority="low", start_timeout=20)
    seen = list(handle.iter_events(with_logs=True, interval=0.01))
    assert [type(one).__name__ for one in seen] == ["Queued", "InProgress", "Completed"]
    assert [line["message"] for line in seen[-1].logs] == ["started", "finished"]
    assert (seen[0].position, seen[-1].metrics, seen[-1].error) == (0, {"inference_time": 0.5}, None)
    result = handle.get()
    assert result == {"echo": {"prompt": "x"}, "path": "/deep/er"} == fal.result(DEEP, handle.request_id)
    assert isinstance(fal.status(DEEP, handle.request_id), fal_client.Completed)
    (got,) = place.queue.asked.values()
    assert (got.prio, got.start_within_s, got.rules.hint) == (1, 20.0, "h1")


def test_the_official_client_subscribes(client: tuple[Any, Place]) -> None:
    fal, _ = client
    updates: list[Any] = []
    assert fal.subscribe(ECHO, {"prompt": "x"}, with_logs=True, on_queue_update=updates.append)["path"] == ""
    assert isinstance(updates[-1], fal_client.Completed)
    with pytest.raises(fal_client.client.FalClientHTTPError) as refused:
        fal.subscribe(ECHO, {})
    assert (refused.value.status_code, refused.value.message[0]["type"]) == (422, "missing")


def test_the_official_client_cancels_once(client: tuple[Any, Place]) -> None:
    fal, place = client
    place.queue.steps = None
    handle = fal.submit(ECHO, {"prompt": "x"})
    handle.cancel()
    with pytest.raises(fal_client.client.FalClientHTTPError) as again:
        fal.cancel(ECHO, handle.request_id)
    assert again.value.status_code == 400
    with pytest.raises(fal_client.client.FalClientHTTPError) as over:
        handle.get()
    assert (over.value.status_code, over.value.error_type) == (499, "client_cancelled")


def test_the_official_client_calls_and_streams(client: tuple[Any, Place]) -> None:
    fal, place = client
    assert fal.run(DEEP, {"prompt": "x"})["path"] == "/deep/er"
    assert [one["output"] for one in fal.stream(ECHO, {"prompt": "x"})] == ["one", "one two"]
    place.app.error = UpstreamFailed("it broke")
    with pytest.raises(fal_client.client.FalClientHTTPError) as broken:
        fal.run(ECHO, {"prompt": "x"})
    assert (broken.value.status_code, broken.value.error_type, len(place.app.tasks)) == (500, "runner_server_error", 3)


async def waited(fal: Any) -> tuple[Any, list[Any], Any]:
    """What the asynchronous client makes of a subscription, a stream, and a refusal."""
    made = await fal.subscribe(DEEP, {"prompt": "x"}, with_logs=True)
    streamed = [one async for one in fal.stream(ECHO, {"prompt": "x"})]
    try:
        return made, streamed, await fal.subscribe(ECHO, {})
    except fal_client.client.FalClientHTTPError as error:
        return made, streamed, error
    finally:
        await (await fal._client).aclose()


def test_the_asynchronous_client_too(client: tuple[Any, Place]) -> None:
    made, streamed, refused = asyncio.run(waited(fal_client.AsyncClient(key="k1:s3cret", default_timeout=30)))
    assert made == {"echo": {"prompt": "x"}, "path": "/deep/er"}
    assert [one["output"] for one in streamed] == ["one", "one two"]
    assert (refused.status_code, refused.message[0]["type"]) == (422, "missing")
