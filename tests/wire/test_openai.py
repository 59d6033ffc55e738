"""What a chat call needs, which names can be a model's, and what of a query string goes on."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    ("raw", "kept", "dropped"),
    [
        (b"", "", ()),
        (b"api-version=2026-01-01&beta=true", "api-version=2026-01-01&beta=true", ()),
        (b"a=1&&b&c=%26+%2B", "a=1&&b&c=%26+%2B", ()),
        (b"max_tokens=5&tokens=2", "max_tokens=5&tokens=2", ()),
        (b"a=1&key=s&b=2", "a=1&b=2", ("key",)),
        (b"api_key=s", "", ("api_key",)),
        (b"API-Key=s&apikey=s", "", ("API-Key", "apikey")),
        (b"token=s&access_token=s&X-Amz-Security-Token=s", "", ("token", "access_token", "X-Amz-Security-Token")),
        (b"client_secret=s&password=s&sig=s&X-Amz-Signature=s", "", ("client_secret", "password", "sig", "X-Amz-Signature")),
        (b"api%5Fk%65y=s&key[]=s&key", "", ("api_key", "key[]", "key")),
        (b"a=1;key=s", "", ("key",)),
        (b'a=\xc3\xa4&b=#x&c="<>', "a=%C3%A4&b=%23x&c=%22%3C%3E", ()),
    ],
)
def test_a_query_string_goes_on_without_credentials(raw: bytes, kept: str, dropped: tuple[str, ...]) -> None:
    assert openai.query(raw) == (kept, dropped)


@given(st.binary())
def test_any_query_string_leaves_as_plain_printable_text(raw: bytes) -> None:
    kept, _ = openai.query(raw)
    assert kept.isascii() and (kept.isprintable() or not kept)
    assert "#" not in kept and " " not in kept
