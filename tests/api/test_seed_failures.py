"""What the skill document says about failures, in front of the simulator: each is told as it says, and cured as it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.api.hubs import Hub
from tests.simulators.site import CUBE, Site
from tests.test_hosted import KEYS, hub

SCHNELL, DEV = "/v1/genai/black-forest-labs/flux.1-schnell", "/v1/genai/black-forest-labs/flux.1-dev"
XL, TURBO = "stabilityai/stable-diffusion-xl", "stabilityai/sdxl-turbo"
FLUX = "black-forest-labs/flux.1-schnell or black-forest-labs/flux.1-dev"
FILTERED = "x-sensorium-filtered"
SEEDS = {"prompt": "a red cube on a white table", "steps": 4, "seed": 0}


def asked(site: Site) -> list[tuple[str, int]]:
    """Path and status of each call that the service got."""
    return [(call["path"], call["status"]) for call in site.get("/simulator/calls").json]


def stored(caller: Hub, key: str) -> None:
    assert caller.json("PUT", "/v1/secrets/nvidia-image", {"value": key})[0] == 200


@pytest.mark.parametrize(("key", "status"), [("nvapi-expired", 401), ("nvapi-revoked", 403)])
def test_a_refused_image_key_is_a_401_that_says_what_to_store_where_and_storing_it_cures(key: str, status: int, tmp_path: Path) -> None:
    with hub(tmp_path) as (caller, site, _):
        stored(caller, key)
        reply, body = caller.call("POST", SCHNELL, SEEDS)
        told = json.loads(body)
        assert (reply.status, told["error"]["code"]) == (401, "upstream_key_rejected")
        assert reply.getheader("x-sensorium-source") == "router.image"
        for words in ("Authentication failed", "nvidia-image", "build.nvidia.com", "nvapi-"):
            assert words in told["error"]["message"] and words in told["detail"]
        assert key not in body.decode()
        assert {answered for _, answered in asked(site)} == {status}
        stored(caller, KEYS["nvidia-image"])
        assert caller.json("POST", SCHNELL, SEEDS)[0] == 200


def test_the_401_of_an_image_key_reaches_the_images_door_alike(tmp_path: Path) -> None:
    with hub(tmp_path) as (caller, _, vault):
        vault.rotate("nvidia-image", "nvapi-revoked", who="test")
        status, told = caller.json("POST", "/v1/images/generations", {"model": "black-forest-labs/flux.1-dev", "prompt": "a red cube"})
        assert (status, told["error"]["code"], "nvidia-image" in told["error"]["message"]) == (401, "upstream_key_rejected", True)


def test_four_steps_are_too_few_for_dev_and_cost_nothing(tmp_path: Path) -> None:
    with hub(tmp_path) as (caller, site, _):
        status, told = caller.json("POST", DEV, SEEDS)
        assert (status, told["error"]["param"], asked(site)) == (422, "steps", [])
        assert "steps is 4" in told["detail"] and "5..100" in told["detail"]
        assert caller.json("POST", DEV, {**SEEDS, "steps": 5})[0] == 200
        assert [answered for _, answered in asked(site)] == [200]


@pytest.mark.parametrize("model", [TURBO, XL])
def test_a_model_that_the_account_lacks_is_a_404_that_names_flux(model: str, tmp_path: Path) -> None:
    with hub(tmp_path) as (caller, site, _):
        for _ in range(2):  # the second time it is known
            status, told = caller.json("POST", f"/v1/genai/{model}", SEEDS)
            assert (status, told["error"]["code"], FLUX in told["detail"]) == (404, "model_unavailable", True)
        status, told = caller.json("POST", "/v1/images/generations", {"model": model, "prompt": "a red cube"})
        assert (status, FLUX in told["error"]["message"]) == (404, True)
        assert asked(site) == [(f"/v1/genai/{model}", 404)]
        assert caller.json("POST", SCHNELL, SEEDS)[0] == 200


def test_another_model_that_nobody_serves_gets_no_such_advice(tmp_path: Path) -> None:
    with hub(tmp_path) as (caller, _, _):
        status, told = caller.json("POST", "/v1/genai/qwen/qwen-image", SEEDS)
        assert (status, FLUX in told["detail"]) == (404, False)


def test_a_filtered_picture_is_flagged_or_refused_and_a_good_one_is_neither(tmp_path: Path) -> None:
    with hub(tmp_path) as (caller, _, _):
        wish = {**CUBE, "prompt": "an nsfw picture"}
        reply, body = caller.call("POST", SCHNELL, wish)
        assert (reply.status, reply.getheader(FILTERED)) == (200, "1")
        assert json.loads(body)["artifacts"][0]["finishReason"] == "CONTENT_FILTERED"
        for path, body_, headers in (
            (SCHNELL, wish, {"accept": "image/png"}),
            ("/v1/images/generations", {"model": "black-forest-labs/flux.1-schnell", "prompt": wish["prompt"]}, {}),
        ):
            status, told = caller.json("POST", path, body_, headers)
            assert (status, told["error"]["code"]) == (422, "content_policy_violation")
        assert caller.call("POST", SCHNELL, CUBE)[0].getheader(FILTERED) is None
