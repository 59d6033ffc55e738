"""Containers by themselves: no keys, health and metadata, and what they take that the hosted ones refuse."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from tests.simulators.site import Answer, Site

LLAMA, FLUX, COSMOS = "meta/llama-3.1-8b-instruct", "black-forest-labs/flux.1-dev", "nvidia/cosmos-predict1-7b"


def get(site: Site, model: str, path: str, **headers: str) -> Answer:
    return site.get(f"/nim/{model}/v1/{path}", Authorization=None, **headers)


def post(site: Site, model: str, path: str, body: Any) -> Answer:
    return site.post(f"/nim/{model}/v1/{path}", body, Authorization=None)


@pytest.mark.parametrize("model", [LLAMA, FLUX, "nvidia/magpie-tts-multilingual", "openai/whisper-large-v3"])
def test_health(site: Site, model: str) -> None:
    for state in ("live", "ready"):
        answer = get(site, model, f"health/{state}")
        assert (answer.status, answer.json["object"], answer.json["status"]) == (200, "health.response", state)


def test_cosmos_speaks_of_triton(site: Site) -> None:
    assert get(site, COSMOS, "health/ready").json == {"description": "Triton readiness check", "status": "ready"}


def test_a_container_that_is_not_ready(site: Site) -> None:
    answer = get(site, LLAMA, "health/ready", x_simulate="not-ready")
    assert (answer.status, answer.json["object"], answer.json["code"], answer.json["param"]) == (503, "error", 503, None)


@pytest.mark.parametrize(
    ("path", "members"), [("metadata", {"version", "assetInfo", "licenseInfo", "modelInfo"}), ("version", {"release", "api"})]
)
def test_what_a_container_tells_about_itself(site: Site, path: str, members: set[str]) -> None:
    assert set(get(site, LLAMA, path).json) == members
    assert b"num_requests_running" in get(site, LLAMA, "metrics").body


def test_the_model_list_of_a_container(site: Site) -> None:
    (entry,) = get(site, LLAMA, "models").json["data"]
    assert (entry["id"], entry["root"], entry["max_model_len"]) == (LLAMA, LLAMA, 131072)


def test_work_needs_no_key_and_carries_no_gateway_headers(site: Site) -> None:
    answer = post(site, LLAMA, "chat/completions", {"model": LLAMA, "messages": [{"role": "user", "content": "hi"}]})
    assert (answer.status, answer.json["choices"][0]["message"]["content"]) == (200, 'You wrote: "hi"')
    assert not [name for name in answer.headers if name.startswith("nvcf")]


def test_pictures_of_ones_own_are_welcome(site: Site) -> None:
    body = {"prompt": "a", "mode": "canny", "image": "data:image/png;base64,iVBORw0KGgo=", "steps": 1}
    answer = post(site, FLUX, "infer", body)
    assert (answer.status, answer.json["artifacts"][0]["finishReason"]) == (200, "SUCCESS")
    assert post(site, "qwen/qwen-image", "infer", {"prompt": "a", "cfg_scale": 2}).status == 422
    assert post(site, "qwen/qwen-image", "infer", {"prompt": "a", "width": 512, "height": 256}).status == 200


def test_the_openai_route_of_an_image_container(site: Site) -> None:
    answer = post(site, FLUX, "images/generations", {"prompt": "a", "n": 2, "size": "256x128"}).json
    sizes = [Image.open(io.BytesIO(base64.b64decode(entry["b64_json"]))).size for entry in answer["data"]]
    assert (set(answer), sizes) == ({"created", "data"}, [(256, 128), (256, 128)])
    assert post(site, FLUX, "images/generations", {"prompt": "a", "size": "large"}).status == 422


def test_rerank_embeddings_and_video(site: Site) -> None:
    ranked = post(
        site, "nvidia/llama-nemotron-rerank-1b-v2", "ranking", {"model": "a", "query": {"text": "a"}, "passages": [{"text": "a"}]}
    )
    assert ranked.json["rankings"][0]["index"] == 0
    assert post(site, "baai/bge-m3", "embeddings", {"model": "a", "input": "a"}).status == 200
    film = post(site, COSMOS, "infer", {"prompt": "a", "video_params": {"height": 64, "width": 64, "frames_count": 2}})
    assert (film.status, "b64_video" in film.json) == (200, True)


def test_what_a_container_does_not_have(site: Site) -> None:
    assert get(site, "nobody/nothing", "models").status == 404
    assert (get(site, LLAMA, "nothing").status, get(site, LLAMA, "nothing").body) == (404, b'{"detail":"Not Found"}')
    assert (get(site, LLAMA, "chat/completions").status, post(site, FLUX, "chat/completions", {}).status) == (405, 404)
