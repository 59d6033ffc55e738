"""What NVIDIA's replies hold, and the error body in its dialect."""

from __future__ import annotations

import base64
import json

import pytest

from sensorium.errors import Unprocessable, UpstreamFailed
from sensorium.wire import nvidia


def reply(content: object) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    "content",
    [
        {"artifacts": [{"base64": "QUJD", "finishReason": "SUCCESS", "seed": 7}]},
        {"artifacts": ["QUJD"]},
        {"artifacts": {"0": {"base64": "QUJD"}}},
        {"artifacts": [{"data": "QUJD"}]},
        {"artifacts": [{"b64_json": "QUJD"}]},
        {"artifacts": [{"url": "data:model/gltf-binary;base64,QUJD"}]},
        {"image": "QUJD", "finish_reason": "SUCCESS", "seed": 0},
        {"image": "data:image/png;base64,QUJD"},
        {"image": "DATA:image/png;base64,QUJD"},
        {"b64_json": "QUJD"},
        {"created": 1, "data": [{"b64_json": "QUJD"}]},
        {"images": ["QUJD"]},
        {"images": [{"base64": "QUJD"}]},
        {"artifacts": [], "image": "QUJD"},
        {"artifacts": [{"url": "https://example.com/a.png"}], "image": "QUJD"},
    ],
)
def test_the_picture_is_found_wherever_models_put_it(content: object) -> None:
    assert nvidia.artifact(reply(content)) == nvidia.Artifact("QUJD", False)
    assert nvidia.drawn(reply(content), "paint") == "QUJD"


NOTHING = [
    b"<html>",
    b"",
    b'"QUJD"',
    b"\xff",
    *map(
        reply,
        [
            {},
            [],
            {"artifacts": []},
            {"artifacts": [None]},
            {"artifacts": [{"finishReason": "ERROR"}]},
            {"artifacts": [{"base64": ""}]},
            {"artifacts": [{"url": "https://example.com/a.png"}]},
            {"artifacts": ["https://example.com/a.png"]},
            {"data": [{"url": "/files/a.png"}]},
            {"image": {"url": "x"}},
        ],
    ),
]


@pytest.mark.parametrize("body", NOTHING)
def test_no_picture_is_none(body: bytes) -> None:
    assert nvidia.artifact(body) == nvidia.Artifact(None, False)
    with pytest.raises(UpstreamFailed, match="paint answered without a picture"):
        nvidia.drawn(body, "paint")


@pytest.mark.parametrize(
    "content",
    [
        {"artifacts": [{"base64": "QUJD", "finishReason": "CONTENT_FILTERED", "seed": 1}]},
        {"image": "QUJD", "finish_reason": "CONTENT_FILTERED"},
        {"artifacts": {"0": {"finishReason": "CONTENT_FILTERED"}}},
    ],
)
def test_a_filtered_picture_is_recognised(content: object) -> None:
    assert nvidia.artifact(reply(content)).filtered
    with pytest.raises(Unprocessable) as caught:
        nvidia.drawn(reply(content), "paint")
    assert caught.value.code == "content_policy_violation"


@pytest.mark.parametrize(
    ("start", "media"),
    [
        (b"\xff\xd8\xff\xe0" + b"0" * 50, "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 50, "image/png"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"glTF\2\0\0\0", None),
        (b"?", None),
    ],
)
def test_the_type_comes_from_the_magic_bytes(start: bytes, media: str | None) -> None:
    assert nvidia.artifact(reply({"artifacts": [{"base64": base64.b64encode(start).decode()}]})).media_type == media


@pytest.mark.parametrize("text", ["ääää", "====", "@@@@@@@@", "A", "QUJD"])
def test_what_is_no_picture_has_no_type(text: str) -> None:
    assert nvidia.artifact(reply({"image": text})).media_type is None


def test_the_error_body_has_detail_and_error() -> None:
    body = json.loads(nvidia.error(Unprocessable("steps is 4", param="steps"), "r1"))
    assert body["detail"] == body["error"]["message"] == "steps is 4"
    assert body["error"]["request_id"] == "r1"
