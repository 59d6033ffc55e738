"""The official `fal-client` package, unmodified, against the simulated queue: what it asks, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sensorium.simulators.fal.faults import Rule
from sensorium.simulators.fal.options import Options
from sensorium.simulators.fal.server import Simulator
from tests.serving import serving
from tests.simulators.fal.site import CUBE, KEY, LTX, QUEUE, RUN, SCHNELL, VLM, png

fal_client = pytest.importorskip("fal_client", reason="fal-client comes with the extra `oracles`")


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A simulator on the real clock, which the client's module constants lead to. Its videos never end, and take the two slots."""
    with serving(Simulator(Options(work_s=0.1, faults=(Rule("stuck", app=LTX),)))) as base:
        monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", f"{base}{QUEUE}/")
        monkeypatch.setattr(fal_client.client, "RUN_URL_FORMAT", f"{base}{RUN}/")
        yield base


@pytest.fixture
def client(base: str) -> Iterator[fal_client.SyncClient]:
    client = fal_client.SyncClient(key=KEY, default_timeout=30)
    yield client
    client._client.close()


def test_submit_status_and_result(client: fal_client.SyncClient) -> None:
    handle = client.submit(SCHNELL, CUBE)
    seen = list(handle.iter_events(with_logs=True, interval=0.02))
    assert isinstance(seen[-1], fal_client.Completed)
    assert [line["message"] for line in seen[-1].logs or []] == ["started", "finished with 200"]
    result = handle.get()
    assert (result["seed"], result["images"][0]["width"], result["has_nsfw_concepts"]) == (7, 96, [False])
    assert client.result(SCHNELL, handle.request_id) == result
    assert isinstance(client.status(SCHNELL, handle.request_id), fal_client.Completed)


def test_subscribe_and_run_give_what_the_app_makes(client: fal_client.SyncClient) -> None:
    updates: list[object] = []
    answer = client.subscribe(
        VLM, {"image_url": png(), "prompt": "How large is it?", "max_tokens": 64}, with_logs=True, on_queue_update=updates.append
    )
    assert answer["output"].startswith("The picture has 5 x 3 pixels.")
    assert isinstance(updates[-1], fal_client.Completed)
    assert client.run(LTX, {"prompt": "waves", "num_frames": 9})["video"]["content_type"] == "video/mp4"


def test_a_request_is_cancelled_once(client: fal_client.SyncClient) -> None:
    handle = client.submit(LTX, {"prompt": "waves"})
    handle.cancel()
    with pytest.raises(fal_client.client.FalClientHTTPError) as again:
        handle.cancel()
    assert again.value.status_code == 400
    with pytest.raises(fal_client.client.FalClientHTTPError) as ended:
        handle.get()
    assert (ended.value.status_code, ended.value.error_type) == (499, "client_cancelled")


def test_a_start_deadline_that_passes(client: fal_client.SyncClient) -> None:
    for _ in range(2):
        busy = client.submit(LTX, {"prompt": "waves"})
        while not isinstance(busy.status(), fal_client.InProgress):
            pass
    waiting = client.submit(SCHNELL, CUBE, headers={"X-Fal-Request-Timeout": "0.11"})
    with pytest.raises(fal_client.client.FalClientHTTPError) as late:
        waiting.get()
    assert (late.value.status_code, late.value.error_type) == (504, "request_timeout")


def test_its_errors(client: fal_client.SyncClient, base: str) -> None:
    with pytest.raises(fal_client.client.FalClientHTTPError) as wrong:
        client.subscribe(VLM, {"image_url": png()})
    (item,) = wrong.value.message  # type: ignore[misc]
    assert (wrong.value.status_code, item["loc"], item["type"]) == (422, ["body", "prompt"], "missing")
    with pytest.raises(fal_client.client.FalClientHTTPError) as unknown:
        client.submit("nobody/nothing", {})
    assert (unknown.value.status_code, unknown.value.message) == (404, "Application 'nobody/nothing' not found")
    with pytest.raises(fal_client.client.FalClientHTTPError) as gone:
        client.status(SCHNELL, "00000000-0000-4000-8000-000000000000")
    assert gone.value.status_code == 404
    stranger = fal_client.SyncClient(key="a:b", default_timeout=30)
    with pytest.raises(fal_client.client.FalClientHTTPError) as barred:
        stranger.submit(SCHNELL, CUBE)
    assert (barred.value.status_code, barred.value.message) == (401, "No user found for Key ID and Secret")
    stranger._client.close()
