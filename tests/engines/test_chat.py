"""What a chat body asks for: the format of the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sensorium.engines import chat
from sensorium.errors import BadRequest

SCHEMA = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}}


def read(response_format: Any, **more: Any) -> chat.ChatCall:
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}], "response_format": response_format, **more}
    return chat.read(json.dumps(body, separators=(",", ":")).encode())


def held(schema: Any = SCHEMA, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, **more}}


@pytest.mark.parametrize("free", [None, {"type": "text"}])
def test_free_text(free: Any) -> None:
    call = read(free)
    assert call.ask.schema is None and call.ask.mode == "diffusion" and not call.ignored


def test_any_object() -> None:
    call = read({"type": "json_object"})
    assert json.loads(call.ask.schema or "") == {"type": "object"} and not call.ignored


@pytest.mark.parametrize("strict", [True, False, None])
def test_a_schema_comes_through_as_it_was_written(strict: bool | None) -> None:
    call = read(held(strict=strict, description="what"))
    assert call.ask.schema == json.dumps(SCHEMA, separators=(",", ":")) and not call.ignored


def test_numbers_beyond_64_bits_and_text_beyond_ascii_stay() -> None:
    body = '{"model":"m","messages":[{"role":"user","content":"?"}],"response_format":{"type":"json_schema","json_schema":{"name":"n",'
    schema = '{"maximum": 99999999999999999999999999, "title": "ü\\u00fc",  "const":1.0}'
    assert chat.read((body + f'"schema":{schema}' + "}}}").encode()).ask.schema == schema


def test_the_mode_is_chosen_where_the_caller_chose_none() -> None:
    """The default unmasks in any order, which no grammar allows; what the caller chose is not changed here."""
    assert read(held()).ask.mode == "auto"
    assert [read(held(), mode=mode).ask.mode for mode in ("linear", "ar", "diffusion")] == ["linear", "ar", "diffusion"]


def test_what_has_no_effect_is_named() -> None:
    call = read({"type": "json_object", "schema": SCHEMA})
    assert call.ignored == ("response_format.schema",)
    assert read({**held(title="t"), "more": 1}).ignored == ("response_format.more", "response_format.json_schema.title")


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ("json_object", "response_format.type"),
        ([], "response_format.type"),
        ({}, "response_format.type"),
        ({"type": "grammar"}, "response_format.type"),
        ({"type": ["text"]}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": "{}"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a b", "schema": SCHEMA}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "n" * 65, "schema": SCHEMA}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "response_format.json_schema.schema"),
        (held(None), "response_format.json_schema.schema"),
        (held(True), "response_format.json_schema.schema"),
        (held("{}"), "response_format.json_schema.schema"),
        (held(strict="yes"), "response_format.json_schema.strict"),
        (held(strict=1), "response_format.json_schema.strict"),
    ],
)
def test_what_is_out_of_form_is_refused_by_name(given: Any, where: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read(given)
    assert refused.value.param == where and where.rsplit(".", 1)[0] in refused.value.message
