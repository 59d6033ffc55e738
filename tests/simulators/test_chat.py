"""Chat, completions and responses: whole and in frames, what is seen in pictures, and bodies that are refused."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from sensorium.simulators.sound import riff, tone
from tests.simulators.site import AI, CHAT, HELLO, INTEGRATE, NVCF, Site

VISION = "meta/llama-3.2-90b-vision-instruct"


def picture(colour: str, size: tuple[int, int] = (64, 32), kind: str = "png") -> str:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def asking(*urls: str, model: str = VISION, text: str = "What is this?") -> dict[str, Any]:
    parts = [{"type": "text", "text": text}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    return {"model": model, "messages": [{"role": "user", "content": parts}], "stream": False}


def said(answer: Any) -> str:
    return str(answer.json["choices"][0]["message"]["content"])


def test_a_whole_answer(site: Site) -> None:
    answer = site.post(CHAT, {"model": "meta/llama-3.1-8b-instruct", "messages": [{"role": "user", "content": "hello there"}]})
    body = answer.json
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert (body["object"], body["model"], body["created"]) == ("chat.completion", "meta/llama-3.1-8b-instruct", 1_790_812_800)
    assert body["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": 'You wrote: "hello there"'}, "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


def test_a_stream_ends_with_usage_and_done(site: Site) -> None:
    answer = site.post(CHAT, {**HELLO, "stream": True, "stream_options": {"include_usage": True}})
    *chunks, usage, done = answer.frames
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert done == "[DONE]"
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 3)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == 'You wrote: "hello"'
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert not any("usage" in chunk for chunk in chunks)


def test_without_being_asked_a_stream_tells_no_usage(site: Site) -> None:
    assert not any("usage" in frame for frame in site.post(CHAT, {**HELLO, "stream": True}).frames)


def test_max_tokens_cut_the_answer(site: Site) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        choice = site.post(CHAT, {**HELLO, name: 2}).json["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("You wrote: ", "length")


def test_some_models_stream_unless_they_are_told_not_to_and_think_aloud(site: Site) -> None:
    body = {"model": "moonshotai/kimi-k3", "messages": HELLO["messages"]}
    frames = site.post(CHAT, body).frames
    assert frames[-1] == "[DONE]"
    assert any("reasoning_content" in frame["choices"][0]["delta"] for frame in frames[:-1])
    whole = site.post(CHAT, {**body, "stream": False}).json
    assert "5 characters" in whole["choices"][0]["message"]["reasoning_content"]


def test_a_red_and_a_blue_picture_get_different_answers(site: Site) -> None:
    red, blue = (said(site.post(CHAT, asking(picture(colour)))) for colour in ("red", "blue"))
    assert "Attachment 1 is a picture of 64x32 pixels with the mean colour #ff0000, red." in red
    assert "64x32 pixels with the mean colour #0000ff, blue." in blue
    assert 'You wrote: "What is this?"' in red


def test_every_picture_is_looked_at_and_a_url_is_not_fetched(site: Site) -> None:
    answer = said(site.post(CHAT, asking(picture("green", (8, 8)), picture("white", (300, 20), "jpeg"), "https://example.com/a.png")))
    assert "Attachment 1 is a picture of 8x8" in answer
    assert "Attachment 2 is a picture of 300x20 pixels with the mean colour #ffffff, white." in answer
    assert "Attachment 3 is a picture at https://example.com/a.png, which the simulator does not fetch." in answer


def test_sound_and_the_older_form_inside_a_string(site: Site) -> None:
    wav = base64.b64encode(riff(tone(440, 1.5, 8000), 8000)).decode()
    model = "microsoft/phi-4-multimodal-instruct"
    parts = [{"type": "input_audio", "input_audio": {"data": wav, "format": "wav"}}, {"type": "text", "text": "Hm?"}]
    assert "a sound of 1.50 seconds" in said(site.post(CHAT, {"model": model, "messages": [{"role": "user", "content": parts}]}))
    content = f'Look: <img src="{picture("red")}" />'
    answer = said(site.post(CHAT, {"model": model, "messages": [{"role": "user", "content": content}]}))
    assert "#ff0000, red" in answer
    assert 'You wrote: "Look:"' in answer


def test_a_picture_as_an_asset(site: Site) -> None:
    made = site.post(f"{NVCF}/v2/nvcf/assets", {"contentType": "image/png", "description": "a"}).json
    raw = base64.b64decode(picture("blue").partition(",")[2])
    upload = made["uploadUrl"].partition(site.address)[2]
    put = {"Authorization": None, "Content-Type": "image/png", "x-amz-meta-nvcf-asset-description": "a"}
    assert site.call("PUT", upload, raw, put).status == 200
    body = asking(f"data:image/png;asset_id,{made['assetId']}")
    assert "#0000ff, blue" in said(site.post(CHAT, body, NVCF_INPUT_ASSET_REFERENCES=made["assetId"]))
    assert site.post(CHAT, body).status == 400


@pytest.mark.parametrize(
    ("change", "status", "where"),
    [
        ({"user": "me"}, 422, ["body", "user"]),
        ({"n": 2}, 422, ["body", "n"]),
        ({"dimensions": 2}, 422, ["body", "dimensions"]),
        ({"messages": []}, 422, ["body", "messages"]),
        ({"max_tokens": 0}, 422, ["body", "max_tokens"]),
        ({"temperature": 3}, 422, ["body", "temperature"]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, 422, ["body", "messages", 0, "content"]),
        ({"messages": [{"role": "user", "content": 7}]}, 422, ["body", "messages", 0, "content"]),
        (
            {"model": VISION, "messages": [{"role": "system", "content": [{"type": "text", "text": "a"}]}]},
            422,
            ["body", "messages", 0, "content"],
        ),
        (
            {"model": VISION, "messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            422,
            ["body", "messages", 0, "content", 0, "type"],
        ),
    ],
)
def test_bodies_that_are_refused_name_the_place(site: Site, change: dict[str, Any], status: int, where: list[Any]) -> None:
    answer = site.post(CHAT, {**HELLO, **change})
    assert (answer.status, answer.json["detail"][0]["loc"], answer.headers["content-type"]) == (status, where, "application/json")
    assert set(answer.json["detail"][0]) >= {"type", "loc", "msg", "input"}


@pytest.mark.parametrize("url", ["data:image/png;base64,AAAA", "data:image/png;base64,????", "data:image/png", "file:///a.png"])
def test_a_picture_that_is_none_is_a_400_that_names_its_part(site: Site, url: str) -> None:
    answer = site.post(CHAT, asking(url))
    assert (answer.status, answer.json["object"], answer.json["code"]) == (400, "error", 400)
    assert answer.json["param"] == "messages.0.content.1.image_url.url"


def test_older_vlm_routes_take_fewer_than_180000_characters_of_base64(site: Site) -> None:
    small = io.BytesIO()
    Image.new("RGB", (200, 200), "red").save(small, "bmp")
    raw = small.getvalue() + bytes(200_000)  # what follows a bitmap is not looked at
    least, most = (f"data:image/bmp;base64,{base64.b64encode(raw[:size]).decode()}" for size in (134_997, 135_000))
    assert (len(least.partition(",")[2]), len(most.partition(",")[2])) == (179_996, 180_000)
    route = f"{AI}/v1/vlm/microsoft/phi-3-vision-128k-instruct"
    body = {name: value for name, value in asking(least).items() if name != "model"}
    assert "200x200" in said(site.post(route, body))
    refused = site.post(route, {"messages": asking(most)["messages"]})
    assert (refused.status, refused.json["detail"][0]["type"]) == (422, "string_too_long")
    assert site.post(CHAT, asking(picture("red", (2000, 2000), "bmp"))).status == 200


def test_the_vanity_route_of_a_vision_model(site: Site) -> None:
    answer = site.post(f"{AI}/v1/gr/{VISION}/chat/completions", asking(picture("red")))
    assert "#ff0000" in said(answer)


def test_completions(site: Site) -> None:
    body = {"model": "meta/llama-3.1-8b-instruct", "prompt": "once upon"}
    answer = site.post(f"{INTEGRATE}/v1/completions", body).json
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", 'You wrote: "once upon"')
    frames = site.post(f"{INTEGRATE}/v1/completions", {**body, "stream": True, "stream_options": {"include_usage": True}}).frames
    assert "".join(frame["choices"][0]["text"] for frame in frames[:-2]) == 'You wrote: "once upon"'
    assert (frames[-2]["choices"], frames[-1]) == ([], "[DONE]")


def test_responses(site: Site) -> None:
    content = [{"type": "input_text", "text": "Hm?"}, {"type": "input_image", "image_url": picture("red")}]
    body = {"model": VISION, "input": [{"role": "user", "content": content}]}
    answer = site.post(f"{INTEGRATE}/v1/responses", body).json
    text = answer["output"][0]["content"][0]["text"]
    assert (answer["object"], answer["status"], "#ff0000" in text) == ("response", "completed", True)
    frames = site.post(f"{INTEGRATE}/v1/responses", {**body, "stream": True}).frames
    assert [frames[0]["type"], frames[-1]["type"]] == ["response.created", "response.completed"]
    assert "".join(frame["delta"] for frame in frames if frame["type"] == "response.output_text.delta") == text
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    cut = site.post(f"{INTEGRATE}/v1/responses", {**body, "max_output_tokens": 1}).json
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
