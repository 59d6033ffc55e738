"""OpenAI's images call as genai bodies."""

from __future__ import annotations

import json

import pytest

from sensorium.errors import Unprocessable
from sensorium.wire import jsonbody, translate

SCHNELL = "black-forest-labs/flux.1-schnell"


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
    assert translate.images_to_genai(found, "hosted", 1).changes == ("output_format dropped", "quality dropped")
    with pytest.raises(Unprocessable, match="output_format is 'webp'"):
        translate.images_to_genai(jsonbody.members(b'{"prompt": "a", "output_format": "webp"}'), "own", 1, formats=("png", "jpeg"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail": "Expected: example_id, got: base64"}', "Expected: example_id, got: base64"),
        (b'{"detail": [{"msg": "too many", "loc": ["body"]}]}', "too many"),
        (b'{"status": 403, "title": "Forbidden"}', "Forbidden"),
        (b'{"error": {"message": "no", "code": "c"}}', "no"),
        (b"404 page not found\n", "404 page not found"),
        (b"", "the model's provider answered 422"),
    ],
)
def test_genai_errors_in_openais_shape(body: bytes, message: str) -> None:
    error = json.loads(translate.genai_error(body, 422, "r1"))["error"]
    assert (error["message"], error["request_id"]) == (message, "r1")


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "n": 0}, "n must"),
        ({"prompt": "a", "n": 11}, "n must"),
        ({"prompt": "a", "n": True}, "n must"),
        ({"prompt": "a", "size": "big"}, "size is 'big'"),
        ({"prompt": "a", "response_format": "url"}, "response_format"),
        ({"prompt": "a", "stream": True}, "stream"),
        ({"prompt": "a", "seed": -3}, "seed"),
    ],
)
def test_what_cannot_be_done_is_named(call: object, names: str) -> None:
    with pytest.raises(Unprocessable, match=names):
        translated(call)
