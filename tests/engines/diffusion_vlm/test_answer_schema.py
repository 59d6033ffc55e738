"""What is refused before any compiler sees it, with no library for grammars at hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sensorium.engines.diffusion_vlm.answer_schema import LARGEST, check_mode, screen
from sensorium.errors import BadRequest


def test_blocks_in_any_order_follow_no_grammar() -> None:
    for mode in ("auto", "linear", "ar"):
        check_mode(mode, "{}")
    check_mode("diffusion", None)
    with pytest.raises(BadRequest) as refused:
        check_mode("diffusion", "{}")
    assert refused.value.param == "mode" and "linear or ar" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{", "not JSON"),
        ("3", "not an object"),
        ('{"a": NaN}', "NaN"),
        ('"' + "x" * LARGEST + '"', str(LARGEST)),
        ('{"a":' * 101 + "1" + "}" * 101, "nested"),
        ("[" * 30_000 + "]" * 30_000, "JSON"),
        ('{"x-guidance": {}}', "x-guidance"),
        ('{"multipleOf": 10001}', "multipleOf"),
        ('{"a": [{"multipleOf": 97}, {"b": {"multipleOf": 0.991}}]}', "multipleOf"),
        ('{"multipleOf": 1e-10}', "multipleOf"),
        ('{"multipleOf": 1e300}', "multipleOf"),
        ('{"minProperties": 2}', "minProperties"),
        ('{"a": {"required": ["a", "b"], "minProperties": 4}}', "minProperties"),
    ],
)
def test_size_and_shape(schema: str, reason: str) -> None:
    with pytest.raises(BadRequest) as refused:
        screen(schema)
    assert refused.value.param == "response_format" and reason in refused.value.message


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"multipleOf": 0.01, "a": {"multipleOf": 5}, "b": [{"multipleOf": 2.5}]},
        {"properties": {"multipleOf": {"type": "string"}}},
        {"multipleOf": 0},
        {"minProperties": 1, "a": {"minProperties": 3, "required": ["a", "b"]}, "b": {"minProperties": {"const": 9}}},
        {"const": "x" * (LARGEST - 13)},
    ],
)
def test_what_is_left_to_the_compiler(schema: Any) -> None:
    screen(json.dumps(schema))
