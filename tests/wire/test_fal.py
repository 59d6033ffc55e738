"""fal's apps in the shapes of the doors: what is sent for a call, what is told as changed, and what an output becomes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sensorium.errors import SensoriumError, Unprocessable, UpstreamFailed
from sensorium.wire import fal, jsonbody
from sensorium.wire.fal import Input

PICTURE = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
SQUARE = {"width": 1024, "height": 1024}


def sent(made: Input) -> dict[str, Any]:
    return json.loads(jsonbody.encode(made.members))  # type: ignore[no-any-return]


def members(body: Any) -> jsonbody.Members:
    return jsonbody.members(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "expected", "changes"),
    [
        ({"prompt": "a"}, {"prompt": "a", "image_size": SQUARE}, ()),
        ({"prompt": "a", "width": 640}, {"prompt": "a", "image_size": {"width": 640, "height": 1024}}, ()),
        ({"prompt": "a", "seed": 0, "cfg_scale": 0}, {"prompt": "a", "image_size": SQUARE}, ()),
        (
            {"prompt": "a", "seed": 3, "cfg_scale": 3.5, "steps": 9, "samples": 1, "mode": "base", "image": None},
            {"prompt": "a", "image_size": SQUARE, "seed": 3, "guidance_scale": 3.5, "num_inference_steps": 9, "num_images": 1},
            ("mode dropped",),
        ),
        (
            {"prompt": "a", "image_size": "square", "enable_safety_checker": False, "sync_mode": False},
            {"prompt": "a", "image_size": "square", "enable_safety_checker": False, "sync_mode": False},
            (),
        ),
        (
            {"text_prompts": [{"text": "a"}, {"text": "b", "weight": -1}], "sampler": "DDIM"},
            {"prompt": "a", "negative_prompt": "b", "image_size": SQUARE},
            ("sampler dropped",),
        ),
        ({"prompt": "a", "aspect_ratio": "16:9"}, {"prompt": "a", "aspect_ratio": "16:9"}, ()),
        (
            {"prompt": "a", "text_prompts": [{"text": "b"}], "image_size": "square", "width": 9, "steps": 3, "num_inference_steps": 4},
            {"prompt": "b", "image_size": "square", "num_inference_steps": 4},
            ("steps, prompt, width dropped",),
        ),
    ],
)
def test_a_genai_body_as_an_input(body: dict[str, Any], expected: dict[str, Any], changes: tuple[str, ...]) -> None:
    made = fal.drawing(members(body))
    assert (sent(made), made.changes) == ({"sync_mode": True} | expected, changes)


def test_numbers_stay_as_they_were_written() -> None:
    made = fal.drawing(jsonbody.members(b'{"prompt":"a","cfg_scale":3.50,"seed":12345678901234567890}'))
    assert (bytes(made.members["guidance_scale"]), bytes(made.members["seed"])) == (b"3.50", b"12345678901234567890")


@pytest.mark.parametrize(
    "body", [{"prompt": "a", "image": "data:,"}, {"text_prompts": "a"}, {"text_prompts": [{"text": "a", "weight": "x"}]}]
)
def test_bodies_that_are_no_input(body: dict[str, Any]) -> None:
    with pytest.raises(Unprocessable):
        fal.drawing(members(body))


@pytest.mark.parametrize(
    ("app", "place"),
    [("fal-ai/flux/schnell", "fal-ai/flux"), ("fal-ai/ltx-video", "fal-ai/ltx-video"), ("workflows/me/mine/x", "workflows/me/mine")],
)
def test_where_an_apps_requests_are(app: str, place: str) -> None:
    assert fal.endpoint(app) == place


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("body", "prompt", "more", "changes"),
    [
        ({"messages": [user(text("What?"), PICTURE)]}, "What?", {}, ()),
        ({"messages": [user(PICTURE, text("What?"), text("Why?"))], "n": 1, "user": "u"}, "What?\nWhy?", {}, ()),
        (
            {"messages": [user(text("What?"), PICTURE)], "max_completion_tokens": 9, "threshold": 0.5, "block_length": 8},
            "What?",
            {"max_tokens": 9, "threshold": 0.5, "block_length": 8},
            (),
        ),
        (
            {"messages": [{"role": "system", "content": "Be short."}, user(text("What?"), PICTURE)], "temperature": 0, "n": 2},
            "Be short.\n\nWhat?",
            {},
            ("messages joined into one prompt", "temperature, n dropped"),
        ),
        (
            {
                "messages": [
                    {**user(text("What?"), PICTURE), "name": "me"},
                    {"role": "assistant", "content": "A dog."},
                    {"role": "user", "content": "Big?"},
                ]
            },
            "User: What?\n\nAssistant: A dog.\n\nUser: Big?",
            {},
            ("messages joined into one prompt", "messages.name dropped"),
        ),
        (
            {"messages": [user(text("a"), {"type": "image_url", "image_url": {**PICTURE["image_url"], "detail": "low"}})]},  # type: ignore[dict-item]
            "a",
            {},
            ("image_url.detail dropped",),
        ),
    ],
)
def test_a_chat_as_an_input(body: dict[str, Any], prompt: str, more: dict[str, Any], changes: tuple[str, ...]) -> None:
    made = fal.asking(members({"model": "m", "stream": False, **body}))
    assert sent(made) == {"image_url": "https://x.example/a.png", "prompt": prompt, **more}
    assert made.changes == changes


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([PICTURE, PICTURE], "2 pictures"),
        ([text("a")], "0 pictures"),
        ([PICTURE, {"type": "input_audio"}], r"messages\[0\]\.content\[1\] is neither"),
        ([{"type": "image_url", "image_url": {}}], r"messages\[0\]\.content\[0\] is neither"),
        (["a"], r"messages\[0\]\.content\[0\] is neither"),
    ],
)
def test_chats_that_are_no_input(content: list[Any], told: str) -> None:
    with pytest.raises(Unprocessable, match=told):
        fal.asking(members({"messages": [user(*content)]}))


def test_an_output_with_pictures_as_a_genai_reply() -> None:
    found = {"images": [{"url": "data:image/png;base64,QQ=="}, {"url": "https://c/b.png"}], "seed": 5, "has_nsfw_concepts": [True, False]}
    assert fal.links(found) == ("https://c/b.png",)
    assert json.loads(fal.drawn(found, {"https://c/b.png": b"B"}, "p")) == {
        "artifacts": [
            {"base64": "QQ==", "finishReason": "CONTENT_FILTERED", "seed": 5},
            {"base64": "Qg==", "finishReason": "SUCCESS", "seed": 5},
        ]
    }


def test_an_output_with_a_video_keeps_its_members() -> None:
    found = {"video": {"url": "https://c/a.mp4", "file_size": 3}, "seed": 5}
    made = json.loads(fal.filmed(found, {"https://c/a.mp4": b"abc"}, "p"))
    assert made == {**found, "artifacts": [{"base64": base64.b64encode(b"abc").decode(), "finishReason": "SUCCESS", "seed": 5}]}


@pytest.mark.parametrize(
    "found", [{}, {"images": []}, {"images": [{}]}, {"images": [{"url": "https://gone"}]}, {"images": "a", "video": 3}]
)
def test_outputs_that_hold_nothing(found: dict[str, Any]) -> None:
    for make in (fal.drawn, fal.filmed):
        with pytest.raises(UpstreamFailed, match="p answered without a"):
            make(found, {}, "p")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'"a"', b"[" * 5000])
def test_an_output_that_is_none(body: bytes) -> None:
    with pytest.raises(SensoriumError, match="not a JSON object"):
        fal.result(body, "p")


def answer(found: dict[str, Any], **asked: Any) -> dict[str, Any]:
    return json.loads(fal.answered(found, members({"messages": [], **asked}), {"id": "i"}, "p"))  # type: ignore[no-any-return]


def test_why_an_answer_ended_and_what_it_cost() -> None:
    found = {"output": "a", "usage": {"prompt_tokens": 2, "completion_tokens": 8, "num_function_evals": 3}}
    told = answer(found, max_tokens=8)
    assert (told["choices"][0]["finish_reason"], told["usage"]) == ("length", {**found["usage"], "total_tokens": 10})  # type: ignore[dict-item]
    assert answer(found)["choices"][0]["finish_reason"] == "stop"
    assert answer({"output": "", "usage": None}, max_tokens="8")["usage"] == {}
    with pytest.raises(UpstreamFailed, match="without an output"):
        answer({"output": 5})
