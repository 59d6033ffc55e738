"""OpenAI's images call as genai bodies."""

from __future__ import annotations

import json

import pytest

from sensorium.errors import Unprocessable
from sensorium.wire import jsonbody, nvidia_models, translate

SCHNELL, KONTEXT = "black-forest-labs/flux.1-schnell", "black-forest-labs/flux.1-kontext-dev"
SD3, SDXL, TRELLIS = "stabilityai/stable-diffusion-3-medium", "stabilityai/stable-diffusion-xl", "microsoft/trellis"


def translated(call: object, model: str = SCHNELL) -> tuple[list[dict[str, object]], tuple[str, ...]]:
    asked = translate.images_to_genai(jsonbody.members(json.dumps(call).encode()), model, seed=100)
    return [json.loads(jsonbody.encode(body)) for body in asked.bodies], asked.changes


def test_n_pictures_get_following_seeds() -> None:
    bodies, changes = translated({"prompt": "a", "n": 3, "model": "x", "user": "me"})
    assert bodies == [{"prompt": "a", "seed": seed} for seed in (100, 101, 102)]
    assert changes == ()


def test_a_size_the_model_lacks_becomes_the_nearest_and_is_told() -> None:
    bodies, changes = translated({"prompt": "a", "size": "512x1536"})
    assert (bodies[0]["width"], bodies[0]["height"]) == (768, 1344)
    assert changes == ("size 512x1536 -> 768x1344",)


@pytest.mark.parametrize(
    ("model", "size", "sent", "change"),
    [
        (SCHNELL, "1024x768", {"width": 1024, "height": 768}, None),
        (KONTEXT, "970x1600", {"width": 944, "height": 1568}, "size 970x1600 -> 944x1568"),
        (SDXL, "512x512", {"width": 1024, "height": 1024}, "size 512x512 -> 1024x1024"),
        (SD3, "1024x1024", {"aspect_ratio": "1:1"}, "size 1024x1024 -> aspect_ratio 1:1"),
        (SD3, "1792x1024", {"aspect_ratio": "16:9"}, "size 1792x1024 -> aspect_ratio 16:9"),
        (SD3, "1024x1792", {"aspect_ratio": "9:16"}, "size 1024x1792 -> aspect_ratio 9:16"),
        (SD3, "1x99999", {"aspect_ratio": "9:16"}, "size 1x99999 -> aspect_ratio 9:16"),
        (TRELLIS, "64x64", {}, "size 64x64 dropped"),
        (SD3, "auto", {}, None),
    ],
)
def test_a_size_becomes_what_the_model_has_instead(model: str, size: str, sent: dict[str, object], change: str | None) -> None:
    bodies, changes = translated({"prompt": "a", "size": size}, model)
    assert {name: value for name, value in bodies[0].items() if name in ("width", "height", "aspect_ratio")} == sent
    assert changes == ((change,) if change else ())


@pytest.mark.parametrize("model", [SCHNELL, SD3, SDXL])
def test_the_translation_keeps_the_models_rules(model: str) -> None:
    asked = translate.images_to_genai(jsonbody.members(b'{"prompt": "a", "size": "1500x900", "n": 2}'), model, seed=2**32 - 1)
    for body in asked.bodies:
        nvidia_models.check(model, body)


def test_a_model_of_weighted_prompts_gets_one() -> None:
    bodies, _ = translated({"prompt": 'a "cube"'}, SDXL)
    assert bodies == [{"text_prompts": [{"text": 'a "cube"', "weight": 1}], "seed": 100}]


def test_a_model_without_rules_gets_the_size_as_it_is() -> None:
    bodies, changes = translated({"prompt": "a", "size": "200x100", "seed": 9, "steps": 2}, "sensorium/scenes-flow")
    assert bodies == [{"prompt": "a", "steps": 2, "width": 200, "height": 100, "seed": 9}]
    assert changes == ()


def test_a_format_is_asked_for_where_the_model_has_a_choice() -> None:
    found = jsonbody.members(b'{"prompt": "a", "output_format": "jpeg", "quality": "high"}')
    asked = translate.images_to_genai(found, "own", 1, size="1024x1024", formats=("png", "jpeg"))
    assert json.loads(jsonbody.encode(asked.bodies[0])) == {
        "prompt": "a",
        "output_format": "jpeg",
        "width": 1024,
        "height": 1024,
        "seed": 1,
    }
    assert asked.changes == ("quality dropped",)
    assert translate.images_to_genai(found, "hosted", 1).changes == ("output_format, quality dropped",)
    with pytest.raises(Unprocessable, match='output_format is "webp"; this route takes one of png, jpeg'):
        translate.images_to_genai(jsonbody.members(b'{"prompt": "a", "output_format": "webp"}'), "own", 1, formats=("png", "jpeg"))


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "n": 0}, "n is 0; this route takes an integer, 1..10"),
        ({"prompt": "a", "n": 11}, "n is 11"),
        ({"prompt": "a", "n": True}, "n is true"),
        ({"prompt": "a", "size": "big"}, "size is 'big'"),
        ({"prompt": "a", "size": "0x64"}, "size is '0x64'"),
        ({"prompt": "a", "response_format": "url"}, "response_format"),
        ({"prompt": "a", "stream": True}, "stream"),
        ({"prompt": "a", "seed": -3}, "seed is -3"),
        ({"prompt": "a", "seed": False}, "seed is false"),
    ],
)
def test_what_cannot_be_done_is_named(call: object, names: str) -> None:
    with pytest.raises(Unprocessable, match=names):
        translated(call)
