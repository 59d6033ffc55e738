"""OpenAI's videos through the official package, in front of the simulator: create, look, fetch, list, delete, and what goes wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from sensorium.simulators.nvidia.faults import Rule
from sensorium.wire import dataurl
from tests.api.hubs import Hub, Scripted, over
from tests.api.test_video import COSMOS, SMALL, SVD, filming
from tests.routing.hosted import nvidia, provider
from tests.serving import serving
from tests.simulators.site import Site, eventually
from tests.simulators.test_video import still

# OpenAI has ended its own service; others speak its protocol on.
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
ASKED = {"prompt": "a drone shot over a forest", "model": COSMOS}
MORE = {"seed": 7, "video_params": SMALL}


@contextmanager
def calling(**options: Any) -> Iterator[tuple[Site, Hub, openai.OpenAI]]:
    with filming(**options) as (site, hub), openai.OpenAI(base_url=f"http://{hub.address}/v1", api_key="any", max_retries=0) as client:
        yield site, hub, client


def test_create_poll_fetch() -> None:
    with calling(work_s={"*": 400.0}) as (_, hub, client):
        video = client.videos.create_and_poll(**ASKED, extra_body=MORE, poll_interval_ms=5)  # type: ignore[arg-type]
        assert (video.status, video.progress, video.model, video.object) == ("completed", 100, COSMOS, "video")
        assert video.completed_at is not None and video.completed_at >= video.created_at
        film = client.videos.download_content(video.id)
        assert (film.read()[4:8], film.response.headers["content-type"]) == (b"ftyp", "video/mp4")
        assert film.response.headers["x-sensorium-source"] == "films"
        assert len(hub.records) == 1


def test_sides_and_length_as_the_model_names_them() -> None:
    program = Scripted()
    program.body, program.media = b"\0\0\0\x10ftypisom", b"video/mp4"
    with serving(program) as base, over([nvidia("video", provider(base))]) as hub:
        for model in (COSMOS, "nvidia/cosmos3-nano", "some/other"):
            body = {"prompt": "x", "model": model, "seconds": "4", "size": "1280x720", "seed": 3}
            made = hub.json("POST", "/v1/videos", body)[1]
            assert (made["seconds"], made["size"], made["model"]) == ("4", "1280x720", model)
            eventually(lambda id=made["id"]: hub.json("GET", f"/v1/videos/{id}")[1]["status"] == "completed")  # type: ignore[misc]
        first, second, third = (json.loads(asked) for _, asked in program.asked)
        assert first["video_params"] == {"width": 1280, "height": 720, "frames_count": 96, "frames_per_sec": 24}
        assert (second["resolution"], second["num_output_frames"], second["fps"]) == ("720_16_9", 97, 24)
        assert third == {"prompt": "x", "seed": 3, "duration": 4, "width": 1280, "height": 720}


def test_a_picture_to_begin_with_as_a_file_or_an_object() -> None:
    with calling() as (_, hub, client):
        file = io.BytesIO(dataurl.parse(still()).data)
        file.name = "first.png"
        of_file = client.videos.create(prompt="x", model=SVD, seconds="4", input_reference=file).id  # type: ignore[arg-type]
        of_object = hub.json("POST", "/v1/videos", {"prompt": "x", "model": SVD, "input_reference": {"image_url": still()}})[1]["id"]
        for id in (of_file, of_object):
            eventually(lambda id=id: client.videos.retrieve(id).status == "completed")  # type: ignore[misc]
        film = client.videos.download_content(of_file)
        assert film.response.headers["x-sensorium-changed"] == "prompt, duration dropped"


def test_a_list_has_pages_and_an_order() -> None:
    with calling() as (site, hub, client):
        site.clock.held = True
        made = [client.videos.create(**ASKED, extra_body=MORE).id for _ in range(5)]  # type: ignore[arg-type]
        site.clock.held = False
        assert [video.id for video in client.videos.list(limit=2)] == made[::-1]
        assert [video.id for video in client.videos.list(limit=2, order="asc")] == made
        assert hub.json("GET", f"/v1/videos?limit={'9' * 5000}")[0] == 400
        assert hub.json("GET", "/v1/videos?limit=0")[0] == hub.json("GET", "/v1/videos?order=up")[0] == 400
        assert hub.json("GET", "/v1/videos?after=video_none")[0] == 404


def test_an_error_is_told_as_it_would_have_been_at_once() -> None:
    with calling(key="nvapi-wrong") as (_, _, client):
        video = client.videos.create_and_poll(**ASKED, poll_interval_ms=5)  # type: ignore[arg-type]
        assert (video.status, video.error and video.error.code) == ("failed", "upstream_key_rejected")
        with pytest.raises(openai.AuthenticationError, match="Authentication failed"):
            client.videos.download_content(video.id)
    with calling(faults=(Rule("lost-worker"),), work_s={"*": 400.0}) as (site, _, client):
        video = client.videos.create_and_poll(**ASKED, extra_body=MORE, poll_interval_ms=5)  # type: ignore[arg-type]
        assert (video.error and video.error.code, site.simulator.counters["invoked"]) == ("result_lost", 1)


def test_deleting_ends_the_upstream_call() -> None:
    with calling(work_s={"*": 400.0}) as (site, hub, client):
        site.clock.held = True
        video = client.videos.create(**ASKED, extra_body=MORE)  # type: ignore[arg-type]
        eventually(lambda: site.simulator.counters["invoked"] == 1)
        with pytest.raises(openai.ConflictError, match="in_progress"):
            client.videos.download_content(video.id)
        assert client.videos.delete(video.id).deleted
        eventually(lambda: site.simulator.counters["callers who left"] == 1)
        assert [record.outcome for record in hub.records] == ["client_closed"]
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(video.id)
        site.clock.held = False


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"model": COSMOS}, 422, "prompt is missing"),
        ({**ASKED, "seconds": "long"}, 422, "1..60"),
        ({**ASKED, "seconds": True}, 422, "1..60"),
        ({**ASKED, "size": "large"}, 422, "WIDTHxHEIGHT"),
        ({**ASKED, "input_reference": "https://x/y.png"}, 422, "data: URL"),
        ({**ASKED, "input_reference": "data:text/html;base64,AAAA"}, 400, "not a picture"),
        ({**ASKED, "model": "../x"}, 400, "not a model name"),
        ({"prompt": "x"}, 400, "name a model"),
        (b"[]", 400, "not an object"),
        (b"", 400, "empty"),
    ],
)
def test_what_is_refused_before_it_is_queued(body: Any, status: int, says: str) -> None:
    program = Scripted()
    with serving(program) as base, over([nvidia("video", provider(base))]) as hub:
        got, answer = hub.json("POST", "/v1/videos", body)
        assert (got, says in answer["error"]["message"]) == (status, True)
        assert (hub.json("GET", "/v1/videos")[1]["data"], program.asked) == ([], [])


def test_without_a_provider_the_setting_is_named() -> None:
    with over([]) as hub:
        status, answer = hub.json("POST", "/v1/videos", ASKED)
        assert (status, "router.video" in answer["error"]["message"]) == (404, True)
