"""The video door in front of the simulator: the seed's line, jobs that outlive their first answer, large results, lost ones."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from sensorium.routing.call import Route
from sensorium.simulators.nvidia.faults import Rule
from tests.api import hubs
from tests.api.hubs import Hub, LazyUpstream, Scripted
from tests.routing.hosted import image, nvidia, provider
from tests.serving import serving
from tests.simulators.site import AI, KEY, NVCF, Site, eventually
from tests.simulators.site import running as simulating
from tests.simulators.test_video import still

COSMOS, TRANSFER, SVD = "nvidia/cosmos-predict1-7b", "nvidia/cosmos-transfer1-7b", "stabilityai/stable-video-diffusion"
FLUX = "black-forest-labs/flux.1-schnell"
SMALL = {"height": 64, "width": 96, "frames_count": 5, "frames_per_sec": 24}
FILM = {"prompt": "a drone shot over a forest", "seed": 7, "video_params": SMALL}


def routes(site: Site, key: str = KEY) -> list[Route]:
    """Video at cosmos by any name, one model on the genai path, and a picture model."""
    at = replace(provider(f"http://{site.address}{AI}/v1/cosmos", "films", key), timeout_s=600.0, idle_s=300.0)
    genai = replace(at, base_url=f"http://{site.address}{AI}/v1/genai", name="stills")
    return [nvidia("video", at, dialect="genai"), nvidia("video", genai, SVD), image(FLUX, genai)]


@contextmanager
def filming(changes: dict[str, Any] | None = None, key: str = KEY, **options: Any) -> Iterator[tuple[Site, Hub]]:
    """A simulator and a hub that live on the simulator's clock; `changes` go into every provider."""
    with simulating(**options) as site:
        listed = [replace(one, provider=replace(one.provider, **(changes or {}))) for one in routes(site, key)]
        with hubs.over(listed, upstream=LazyUpstream(site.clock.now, site.clock.sleep)) as hub:
            yield site, hub


def film(hub: Hub, model: str = COSMOS, body: Any = None) -> tuple[int, dict[str, Any]]:
    status, answer = hub.json("POST", f"/v1/video/{model}", body or FILM)
    assert status != 200 or base64.b64decode(answer["artifacts"][0]["base64"])[4:8] == b"ftyp"
    return status, answer


def test_the_seeds_line() -> None:
    with filming() as (_, hub):
        reply, body = hub.call("POST", f"/v1/video/{COSMOS}", FILM, {"content-type": "application/json"})
        answer = json.loads(body)
        assert (reply.status, list(answer)) == (200, ["b64_video", "seed", "upsampled_prompt", "artifacts"])
        assert (answer["seed"], answer["artifacts"]) == (7, [{"base64": answer["b64_video"]}])
        assert (reply.getheader("x-sensorium-source"), reply.getheader("x-sensorium-model")) == ("films", COSMOS)
        assert film(hub, SVD, {"image": still()})[1]["finish_reason"] == "SUCCESS"


def test_a_job_is_polled_to_its_end() -> None:
    with filming(work_s={"*": 550.0}) as (site, hub):
        status, answer = film(hub)
        assert (status, answer["seed"], site.simulator.counters["fetched"]) == (200, 7, 1)
        assert film(hub, SVD, {"image": still()})[0] == 200


def test_a_picture_that_takes_long_is_polled_as_well() -> None:
    with filming(work_s={FLUX: 400.0}, pexec=frozenset({FLUX})) as (site, hub):
        reply, body = hub.call("POST", f"/v1/genai/{FLUX}", {"prompt": "x", "width": 768, "height": 768})
        assert (reply.status, site.simulator.counters["fetched"]) == (200, 1)
        assert json.loads(body)["artifacts"][0]["finishReason"] == "SUCCESS"
        assert reply.getheader("x-sensorium-artifact-type") == "image/jpeg"


def test_the_status_host_is_a_setting() -> None:
    with filming({"status_url": "http://127.0.0.1:9/v1/status"}, work_s={"*": 400.0}) as (_, hub):
        status, answer = film(hub)
        assert (status, answer["error"]["code"], "cannot be reached" in answer["detail"]) == (502, "result_lost", True)
    with simulating(work_s={"*": 400.0}) as site:
        other = f"http://{site.address}{NVCF}/v2/nvcf/pexec/status"
        listed = [replace(one, provider=replace(one.provider, status_url=other)) for one in routes(site)]
        with hubs.over(listed, upstream=LazyUpstream(site.clock.now, site.clock.sleep)) as hub:
            assert film(hub)[0] == 200


@pytest.mark.parametrize("fault", [None, "zip", "hostile-zip"])
def test_a_large_result_is_fetched_and_unpacked(fault: str | None) -> None:
    faults = (Rule(fault),) if fault else ()
    with filming(faults=faults, work_s={"*": 400.0}) as (_, hub):
        status, answer = film(hub, TRANSFER if fault is None else COSMOS)
        assert (status, answer["seed"]) == (200, 7)


def test_a_worker_that_is_gone_is_a_lost_result_and_is_not_paid_twice() -> None:
    with filming(faults=(Rule("lost-worker"),), work_s={"*": 400.0}) as (site, hub):
        status, answer = film(hub)
        assert (status, answer["error"]["code"], site.simulator.counters["invoked"]) == (502, "result_lost", 1)
        assert "504" in answer["detail"]


def test_a_job_that_takes_too_long_is_a_deadline() -> None:
    with filming(work_s={"*": 5000.0}) as (_, hub):
        status, answer = film(hub)
        assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")


def test_a_bad_body_and_a_bad_key_are_told_clearly() -> None:
    with filming() as (_, hub):
        assert film(hub, body={"prompt": "x", "steps": 1000})[0] == 422
        assert film(hub, "nvidia/no-such-model")[0] == 404
        assert film(hub)[0] == 200
    with filming(key="nvapi-wrong") as (_, hub):
        status, answer = film(hub)
        assert (status, answer["error"]["code"]) == (401, "upstream_key_rejected")


def test_a_filtered_video_is_flagged() -> None:
    with filming(faults=(Rule("filtered"),)) as (_, hub):
        reply, _ = hub.call("POST", f"/v1/video/{SVD}", {"image": still()})
        assert (reply.status, reply.getheader("x-sensorium-filtered")) == (200, "1")


def test_a_caller_who_leaves_finds_the_video_in_the_list() -> None:
    with filming(work_s={"*": 400.0}) as (site, hub):
        site.clock.held = True
        connection = socket.create_connection(site_address(hub))
        body = json.dumps(FILM).encode()
        head = f"POST /v1/video/{COSMOS} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        eventually(lambda: site.simulator.counters["invoked"] == 1)
        connection.close()
        (left,) = hub.json("GET", "/v1/videos")[1]["data"]
        assert (left["status"], left["model"]) == ("in_progress", COSMOS)
        site.clock.held = False
        eventually(lambda: hub.json("GET", f"/v1/videos/{left['id']}")[1]["status"] == "completed")
        assert hub.call("GET", f"/v1/videos/{left['id']}/content")[1][4:8] == b"ftyp"
        assert [record.outcome for record in hub.records] == ["answered"]


def site_address(hub: Hub) -> tuple[str, int]:
    host, _, port = hub.address.partition(":")
    return host, int(port)


PATHS = ["../chat/completions", "%2e%2e/x", "a%2fb", "a//b", "a\\b", "a%5cb", "a%00", "a/", "x" * 201, "a%3fb", "a%23b", "", "a/../b", "."]


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_are_never_sent(path: str) -> None:
    program = Scripted()
    with serving(program) as base, hubs.over([nvidia("video", provider(base))]) as hub:
        status, answer = hub.json("POST", f"/v1/video/{path}", FILM)
        assert (status, answer["error"]["code"], program.asked) == (400, "invalid_path", [])


def test_without_a_provider_the_setting_is_named() -> None:
    with hubs.over([]) as hub:
        status, answer = hub.json("POST", f"/v1/video/{COSMOS}", FILM)
        assert (status, answer["error"]["code"]) == (404, "not_configured")
        assert "router.video" in answer["detail"] and "URL + key" in answer["detail"]
        assert hub.json("GET", f"/v1/video/{COSMOS}")[0] == 405
        assert hub.json("POST", "/v1/video/*", FILM)[0] == 400


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [(b'{"prompt":"x"}', b"application/json", 502), (b"", b"video/mp4", 502), (b"\0\0\0\x10ftypisom", b"video/mp4", 200)],
)
def test_what_other_services_answer(body: bytes, media: bytes, status: int) -> None:
    program = Scripted()
    program.body, program.media = body, media
    with serving(program) as base, hubs.over([nvidia("video", provider(base))]) as hub:
        reply, got = hub.call("POST", "/v1/video/a/b", FILM)
        assert (reply.status, reply.getheader("content-type")) == (status, "application/json")
        if status == 200:
            assert json.loads(got) == {"artifacts": [{"base64": base64.b64encode(body).decode()}]}
