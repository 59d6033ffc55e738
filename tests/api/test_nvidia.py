"""The genai door: rules before quota, NVIDIA's error shape, the picture's type in a header."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from sensorium.api import nvidia
from tests.api.hubs import SD3, Hub, Scripted
from tests.upstream_program import Provider

DEV = "/v1/genai/black-forest-labs/flux.1-dev"
FILTERED = "x-sensorium-filtered"


def file(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 30)).save(out, kind)
    return out.getvalue()


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
    assert reply["detail"] == reply["error"]["message"] == "steps is 4; black-forest-labs/flux.1-dev takes an integer, 5..100"


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
    status, reply = hub.json("POST", "/v1/genai/org/refuse-422", {"prompt": "x"})
    assert (status, reply["detail"], reply["error"]["message"]) == (422, "refused on purpose", "refused on purpose")


SHAPES = [
    '{"artifacts":[{"base64":"%s","finishReason":"SUCCESS","seed":1}]}',
    '{"image":"%s","finish_reason":"SUCCESS","seed":0}',
    '{"created":1,"data":[{"b64_json":"%s"}]}',
    '{"artifacts":{"0":{"base64":"%s"}}}',
    '{"b64_json":"%s"}',
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("accept", "kind"), [("image/png", "PNG"), ("image/jpeg", "JPEG")])
def test_accept_image_gives_the_picture_itself(scripted: tuple[Scripted, Hub], shape: str, accept: str, kind: str) -> None:
    program, hub = scripted
    program.body = (shape % base64.b64encode(file("JPEG")).decode()).encode()
    reply, raw = hub.call("POST", f"/v1/genai/{SD3}", {"prompt": "x"}, {"accept": accept})
    assert (reply.status, reply.getheader("content-type"), reply.getheader("x-sensorium-source")) == (200, accept, "paint")
    assert Image.open(io.BytesIO(raw)).format == kind
    assert (raw == file("JPEG")) == (kind == "JPEG")


@pytest.mark.parametrize("shape", SHAPES)
def test_without_it_every_byte_stays_and_the_type_is_told(scripted: tuple[Scripted, Hub], shape: str) -> None:
    program, hub = scripted
    program.body = ("  \n " + shape % base64.b64encode(file("JPEG")).decode()).encode()
    reply, raw = hub.call("POST", f"/v1/genai/{SD3}", {"prompt": "x"})
    assert raw == program.body
    assert (reply.getheader("x-sensorium-artifact-type"), reply.getheader(FILTERED)) == ("image/jpeg", None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"artifacts": [{"base64": "/9j/%s", "finishReason" : "CONTENT_FILTERED", "seed": 1}]}' % (b"A" * 200_000),
        b'{"image": "/9j/AAAA", "finish_reason": "CONTENT_FILTERED"}',
    ],
    ids=["flux", "sd3"],
)
def test_a_filtered_picture_is_flagged_and_relayed_as_it_is(scripted: tuple[Scripted, Hub], body: bytes) -> None:
    program, hub = scripted
    program.body = body
    reply, raw = hub.call("POST", f"/v1/genai/{SD3}", {"prompt": "x"})
    assert (reply.status, reply.getheader(FILTERED), raw) == (200, "1", body)
    status, refused = hub.json("POST", f"/v1/genai/{SD3}", {"prompt": "x"}, {"accept": "image/png"})
    assert (status, refused["error"]["code"]) == (422, "content_policy_violation")


@pytest.mark.parametrize(
    ("media", "body"),
    [
        (b"image/jpeg", file("JPEG")),
        (b"application/json", b'{"prompt": "\\"finishReason\\": \\"CONTENT_FILTERED\\"", "mesh": {}}'),
        (b"text/plain", b"{ not json, CONTENT_FILTERED"),
        (b"text/plain", b"drawn"),
    ],
)
def test_other_replies_pass_without_remark(scripted: tuple[Scripted, Hub], media: bytes, body: bytes) -> None:
    program, hub = scripted
    program.body, program.media = body, media
    reply, raw = hub.call("POST", f"/v1/genai/{SD3}", {"prompt": "x"})
    assert (reply.status, raw, reply.getheader("content-type")) == (200, body, media.decode())
    assert reply.getheader(FILTERED) is reply.getheader("x-sensorium-artifact-type") is None


def test_a_reply_of_unusual_size_is_relayed_unread(scripted: tuple[Scripted, Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "LOOKED_AT", 1000)
    program, hub = scripted
    program.body = b'{"image": "/9j/%s", "finish_reason": "CONTENT_FILTERED"}' % (b"A" * 3_000_000)
    reply, raw = hub.call("POST", f"/v1/genai/{SD3}", {"prompt": "x"})
    assert (raw, reply.getheader(FILTERED)) == (program.body, None)


def test_a_reply_that_breaks_off_is_an_error_not_half_a_picture(scripted: tuple[Scripted, Hub]) -> None:
    program, hub = scripted
    program.body, program.breaks_off = b'{"artifacts": [{"base64": "/9j/AAAA"}]}', True
    status, reply = hub.json("POST", f"/v1/genai/{SD3}", {"prompt": "x"})
    assert (status, reply["error"]["code"]) == (502, "transport")


@pytest.mark.parametrize("accept", ["application/json", "image/png"])
def test_a_good_status_without_a_picture_is_a_failure(hub: Hub, accept: str) -> None:
    status, reply = hub.json("POST", "/v1/genai/org/odd", {"prompt": "x"}, {"accept": accept})
    assert (status, reply["error"]["code"]) == (502, "empty_result")


@pytest.mark.parametrize("text", ["ääää", "QUJ", "Q@@D", "QUJD"])
def test_damaged_base64_is_an_upstream_failure(scripted: tuple[Scripted, Hub], text: str) -> None:
    program, hub = scripted
    program.body = json.dumps({"artifacts": [{"base64": text}]}).encode()
    status, reply = hub.json("POST", "/v1/genai/org/good", {"prompt": "x"}, {"accept": "image/png"})
    assert (status, reply["error"]["code"]) == (502, "upstream_failed")


@pytest.mark.parametrize(("path", "setting"), [("/v1/audio/transcriptions", "router.audio"), ("/v1/video/org/model", "router.video")])
def test_what_is_not_configured_names_its_setting(hub: Hub, path: str, setting: str) -> None:
    status, reply = hub.json("POST", path, b"")
    assert status == 404
    assert setting in reply["detail"] and "URL + key" in reply["detail"]
    assert hub.json("GET", path)[0] == 405
