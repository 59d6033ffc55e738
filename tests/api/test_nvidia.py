"""The genai door: rules before quota, NVIDIA's error shape, the picture's type in a header."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from tests.api.hubs import Hub
from tests.upstream_program import Provider

DEV = "/v1/genai/black-forest-labs/flux.1-dev"


def test_the_body_goes_on_as_it_came(hub: Hub, provider: Provider) -> None:
    reply, raw = hub.call("POST", "/v1/genai/org/good", b'{"prompt":"x","whatever":1.50}')
    assert provider.seen[-1][0] == "/v1/genai/org/good"
    assert provider.seen[-1][2] == b'{"prompt":"x","whatever":1.50}'
    assert json.loads(raw)["artifacts"][0]["seed"] == 7
    assert reply.getheader("x-sensorium-artifact-type") == "image/png"


def test_rules_are_kept_before_anything_is_sent(hub: Hub, provider: Provider) -> None:
    before = len(provider.seen)
    status, reply = hub.json("POST", DEV, {"prompt": "x", "steps": 4})
    assert (status, len(provider.seen)) == (422, before)
    assert reply["detail"] == reply["error"]["message"] == "steps is 4; black-forest-labs/flux.1-dev takes 5..100"


@pytest.mark.parametrize("path", ["", "*", "../x", "a%2e%2e/x", "org//good", "org/good/", "org/good?x=1#y", "org/go\\od"])
def test_odd_paths_never_reach_the_provider(hub: Hub, provider: Provider, path: str) -> None:
    before = len(provider.seen)
    status, reply = hub.json("POST", f"/v1/genai/{path}", {"prompt": "x"})
    if path == "org/good?x=1#y":
        assert status == 200
        return
    assert status in (400, 404)
    assert reply["detail"]
    assert len(provider.seen) == before


def test_an_upstreams_error_passes_through(hub: Hub) -> None:
    assert hub.json("POST", "/v1/genai/org/refuse-422", {"prompt": "x"}) == (422, {"error": {"message": "refused on purpose"}})


def test_accept_image_gives_the_picture_itself(hub: Hub, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 30)).save(out, "PNG")
    monkeypatch.setattr("tests.upstream_program.PNG", base64.b64encode(out.getvalue()).decode())
    reply, raw = hub.call("POST", "/v1/genai/org/good", {"prompt": "x"}, {"accept": "image/png"})
    assert (reply.getheader("content-type"), raw) == ("image/png", out.getvalue())
    reply, raw = hub.call("POST", "/v1/genai/org/good", {"prompt": "x"}, {"accept": "image/jpeg"})
    assert Image.open(io.BytesIO(raw)).format == reply.getheader("content-type").split("/")[1].upper() == "JPEG"


def test_a_picture_that_is_none_is_an_upstream_failure(hub: Hub) -> None:
    status, reply = hub.json("POST", "/v1/genai/org/odd", {"prompt": "x"}, {"accept": "image/png"})
    assert (status, reply["error"]["code"]) == (502, "upstream_failed")


@pytest.mark.parametrize(("path", "setting"), [("/v1/audio/transcriptions", "router.audio"), ("/v1/video/org/model", "router.video")])
def test_what_is_not_configured_names_its_setting(hub: Hub, path: str, setting: str) -> None:
    status, reply = hub.json("POST", path, b"")
    assert status == 404
    assert setting in reply["detail"] and "URL + key" in reply["detail"]
    assert hub.json("GET", path)[0] == 405
