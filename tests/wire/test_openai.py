"""What a chat call needs, and which names can be a model's."""

from __future__ import annotations

import json

import pytest

from sensorium.errors import BadRequest, InvalidModel, SensoriumError, Unprocessable
from sensorium.wire import jsonbody, openai


def members(call: object) -> jsonbody.Members:
    return jsonbody.members(json.dumps(call).encode())


@pytest.mark.parametrize("blank", [{}, {"model": None}, {"model": ""}, {"model": "  "}, {"model": "*"}])
def test_a_blank_model_is_the_hubs_choice(blank: dict[str, object]) -> None:
    assert openai.model_name(members(blank)) == "*"


@pytest.mark.parametrize("name", ["..", "../x", "a//b", "a b", "a?b", "a%2e", "ä", "x" * 201, "a\n"])
def test_names_that_no_model_can_have(name: str) -> None:
    if name.strip() == "a":
        assert openai.checked_name(name) == "a"
        return
    with pytest.raises(InvalidModel):
        openai.checked_name(name)


@pytest.mark.parametrize(
    ("messages", "needs"),
    [
        ([{"role": "user", "content": "hello"}], {"text"}),
        ([{"role": "user", "content": [{"type": "text", "text": "hello"}]}], {"text"}),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}], {"vision"}),
        ([{"role": "user", "content": [{"type": "image_url"}]}, {"role": "user", "content": "and now?"}], {"vision"}),
        ([{"role": "user", "content": None}, {"role": "user", "content": [3]}], {"text"}),
    ],
)
def test_needs_follow_the_content(messages: list[object], needs: set[str]) -> None:
    assert openai.chat_needs(members({"messages": messages})) == needs


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({}, BadRequest),
        ({"messages": []}, Unprocessable),
        ({"messages": "hello"}, Unprocessable),
        ({"messages": ["hello"]}, Unprocessable),
        ({"messages": None}, Unprocessable),
    ],
)
def test_calls_without_messages(call: object, error: type[SensoriumError]) -> None:
    with pytest.raises(error, match="messages"):
        openai.chat_needs(members(call))


def test_the_error_body_has_the_contract_members() -> None:
    body = json.loads(openai.error(Unprocessable("no", param="steps", hint="do"), "r1"))
    assert body == {
        "error": {
            "message": "no",
            "type": "invalid_request_error",
            "code": "invalid_parameter",
            "param": "steps",
            "request_id": "r1",
            "hint": "do",
        }
    }
