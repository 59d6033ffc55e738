"""NVIDIA's rules per model, and the picture in a reply."""

from __future__ import annotations

import base64
import json

import pytest

from sensorium.errors import Unprocessable
from sensorium.wire import jsonbody, nvidia

SCHNELL, DEV = "black-forest-labs/flux.1-schnell", "black-forest-labs/flux.1-dev"


def members(call: object) -> jsonbody.Members:
    return jsonbody.members(json.dumps(call).encode())


@pytest.mark.parametrize(
    ("model", "call"),
    [
        (SCHNELL, {"steps": 4, "seed": 0}),
        (SCHNELL, {"steps": 1, "cfg_scale": 0, "mode": "base", "image": None, "samples": 1}),
        (SCHNELL, {"width": 1344, "height": 768, "seed": 4294967295}),
        (DEV, {"steps": 5, "cfg_scale": 9}),
        (DEV, {"steps": 100, "cfg_scale": 1.5, "seed": None}),
        (DEV, {"steps": 8.0}),
        (DEV, {"mode": "canny", "image": "data:image/png;example_id,3"}),
        ("some/other", {"steps": 999, "anything": 1}),
    ],
)
def test_calls_that_the_hosted_model_takes(model: str, call: dict[str, object]) -> None:
    nvidia.check(model, members({"prompt": "a red cube", **call}))


@pytest.mark.parametrize(
    ("model", "call", "says"),
    [
        (DEV, {"steps": 4}, "steps is 4; .* takes 5..100"),
        (SCHNELL, {"steps": 0}, "steps is 0; .* takes 1..4"),
        (SCHNELL, {"steps": 5}, "steps is 5"),
        (SCHNELL, {"steps": 10**9}, "steps is 1000000000"),
        (SCHNELL, {"steps": "four"}, 'steps is "four"; .* takes an integer, from 1 to 4'),
        (SCHNELL, {"steps": True}, "steps is true"),
        (SCHNELL, {"steps": 2.5}, "steps is 2.5"),
        (SCHNELL, {"seed": -1}, "seed is -1"),
        (SCHNELL, {"seed": 2**32}, "seed is 4294967296"),
        (SCHNELL, {"width": 1000}, "width is 1000; .* takes one of 768"),
        (SCHNELL, {"cfg_scale": 3}, "cfg_scale is 3; .* takes only 0"),
        (DEV, {"cfg_scale": 1}, "cfg_scale is 1; .* takes more than 1, up to 9"),
        (DEV, {"cfg_scale": "high"}, 'cfg_scale is "high"'),
        (DEV, {"samples": 2}, "samples is 2"),
        (DEV, {"aspect_ratio": "1:1"}, "aspect_ratio: extra inputs are not permitted"),
        (DEV, {"image": "data:image/png;base64,AA=="}, "image: .* takes none in mode 'base'"),
        (DEV, {"mode": "canny"}, "image: in mode 'canny' .* takes NVIDIA's own samples only"),
        (DEV, {"mode": "sketch"}, 'mode is "sketch"'),
        (DEV, {"cfg_scale": 10**400}, "cfg_scale is 1000"),
        (SCHNELL, {"prompt": "x" * 10_001}, "prompt has 10001 characters"),
        (SCHNELL, {"prompt": 5}, "prompt must be a string"),
        (SCHNELL, {"prompt": ""}, "prompt is missing"),
    ],
)
def test_calls_that_it_refuses_name_the_parameter(model: str, call: dict[str, object], says: str) -> None:
    with pytest.raises(Unprocessable, match=says) as caught:
        nvidia.check(model, members({"prompt": "a red cube", **call}))
    assert caught.value.param in (*call, "image")


def test_a_stand_in_is_told_the_hosted_defaults() -> None:
    sent = nvidia.explicit(DEV, members({"prompt": "x", "steps": 7, "width": None, "mode": "base"}))
    assert json.loads(jsonbody.encode(sent)) == {"prompt": "x", "steps": 7, "width": 1024, "height": 1024, "cfg_scale": 5}


@pytest.mark.parametrize(
    "reply",
    [
        {"artifacts": [{"base64": "QUJD"}]},
        {"artifacts": ["QUJD"]},
        {"image": "QUJD", "finish_reason": "SUCCESS"},
        {"b64_json": "QUJD"},
        {"artifacts": {"0": {"base64": "QUJD"}}},
        {"artifacts": [{"data": "QUJD"}]},
        {"data": [{"b64_json": "QUJD"}]},
        {"image": "data:image/png;base64,QUJD"},
    ],
)
def test_the_picture_is_found_wherever_models_put_it(reply: object) -> None:
    assert nvidia.artifact(json.dumps(reply).encode()) == "QUJD"


@pytest.mark.parametrize("reply", [{}, {"artifacts": []}, [], {"artifacts": [{"finishReason": "ERROR"}]}])
def test_no_picture_is_none(reply: object) -> None:
    assert nvidia.artifact(json.dumps(reply).encode()) is None


def test_what_is_not_json_holds_no_picture() -> None:
    assert nvidia.artifact(b"<html>") is None


def test_a_stand_in_has_no_modes_that_need_a_picture() -> None:
    with pytest.raises(Unprocessable, match="draws in mode 'base' only"):
        nvidia.explicit(DEV, members({"prompt": "x", "mode": "canny"}))


@pytest.mark.parametrize(
    ("magic", "media"),
    [(b"\xff\xd8\xff\xe0" + b"0" * 12, "image/jpeg"), (b"\x89PNG\r\n\x1a\n" + b"0" * 12, "image/png"), (b"?" * 16, None)],
)
def test_the_type_comes_from_the_magic_bytes(magic: bytes, media: str | None) -> None:
    start = json.dumps({"artifacts": [{"base64": base64.b64encode(magic).decode()}]}).encode()
    assert nvidia.picture_type(start) == media


def test_the_error_body_has_detail_and_error() -> None:
    body = json.loads(nvidia.error(Unprocessable("steps is 4", param="steps"), "r1"))
    assert body["detail"] == body["error"]["message"] == "steps is 4"
    assert body["error"]["request_id"] == "r1"
