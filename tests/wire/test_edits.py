"""OpenAI's edits as genai bodies."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sensorium.errors import SensoriumError
from sensorium.wire import edits, jsonbody, nvidia_models
from sensorium.wire.multipart import Part

KONTEXT, KLEIN, SCHNELL = "black-forest-labs/flux.1-kontext-dev", "black-forest-labs/flux.2-klein-4b", "black-forest-labs/flux.1-schnell"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
SAMPLE = "data:image/png;example_id,1"


def raw(call: Any) -> jsonbody.Members:
    return jsonbody.members(json.dumps(call).encode())


def translated(call: Any, model: str) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    asked = edits.to_genai(raw(call), model, 100)
    return [json.loads(jsonbody.encode(body)) for body in asked.bodies], asked.changes


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_a_form_reads_as_the_json_body_would(name: str) -> None:
    form = [Part("prompt", "ä 2".encode()), Part(name, PNG, "a.png", "image/png"), Part("n", b"2"), Part("size", b"1024x1024")]
    assert json.loads(jsonbody.encode(edits.members(form))) == {"prompt": "ä 2", "image": [URL], "n": 2, "size": "1024x1024"}


@pytest.mark.parametrize("filename", [None, "sample.txt"])
def test_a_sample_is_named_in_the_pictures_place(filename: str | None) -> None:
    assert jsonbody.value(edits.members([Part("image", SAMPLE.encode(), filename)]), "image") == [SAMPLE]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"image": URL}, URL),
        ({"image": [SAMPLE]}, SAMPLE),
        ({"images": [{"image_url": URL}]}, URL),
        ({"images": [SAMPLE], "mask": None}, SAMPLE),
    ],
)
def test_every_way_to_send_the_picture(given: dict[str, Any], url: str) -> None:
    assert translated({"prompt": "a", **given}, "org/own") == ([{"prompt": "a", "seed": 100, "image": url}], ())


def test_models_get_it_in_their_own_words() -> None:
    bodies, changes = translated({"prompt": "a", "image": SAMPLE, "n": 2, "size": "970x1600", "quality": "high"}, KONTEXT)
    assert bodies == [{"prompt": "a", "seed": seed, "image": SAMPLE, "width": 944, "height": 1568} for seed in (100, 101)]
    assert changes == ("quality dropped", "size 970x1600 -> 944x1568")
    bodies, _ = translated({"prompt": "a", "image": SAMPLE, "seed": 5}, KLEIN)
    assert bodies == [{"prompt": "a", "seed": 5, "image": SAMPLE, "mode": "Image Editing"}]


@pytest.mark.parametrize("model", edits.EDITORS)
def test_the_translation_keeps_the_models_rules(model: str) -> None:
    for body in edits.to_genai(raw({"prompt": "a", "image": SAMPLE, "size": "1500x900"}), model, 7).bodies:
        nvidia_models.check(model, body)


@pytest.mark.parametrize(
    ("call", "model", "names"),
    [
        ({"image": URL}, SCHNELL, "flux.1-schnell cannot edit pictures; black-forest-labs/flux.1-kontext-dev and"),
        ({"image": URL, "mask": URL}, KONTEXT, "mask: .* takes none"),
        ({"image": [URL, URL]}, KONTEXT, "edits one picture per call, not 2"),
        ({"image": "https://a.example/b.png"}, KONTEXT, "must be a data: URL"),
        ({"images": [{"file_id": "file-1"}]}, KONTEXT, "must be a data: URL"),
        ({"image": URL, "n": "two"}, KONTEXT, 'n is "two"'),
        ({"image": URL, "stream": True}, KONTEXT, "not streamed"),
    ],
)
def test_what_cannot_be_done_is_named(call: Any, model: str, names: str) -> None:
    with pytest.raises(SensoriumError, match=names):
        translated({"prompt": "a", **call}, model)


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ([Part("prompt", b"a")], "image is missing"),
        ([Part("prompt", b"a"), Part("image", b"", "a.png")], "image is missing"),
        ([Part("image", PNG, "a.png")], "prompt is missing"),
        ([Part("image", PNG, "a.png"), Part("prompt", b"\xff")], "not UTF-8"),
    ],
)
def test_forms_that_no_model_could_serve(form: list[Part], names: str) -> None:
    with pytest.raises(SensoriumError, match=names):
        edits.check_form(form)


def test_a_file_that_is_no_picture() -> None:
    with pytest.raises(SensoriumError, match="send a PNG, JPEG or WEBP"):
        edits.members([Part("image", b"hello", "a.png")])
