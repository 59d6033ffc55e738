"""A Messages call as a chat call: every field that goes over, what is dropped and said, and what is out of form."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import BadRequest, SensoriumError
from sensorium.wire import anthropic, anthropic_chat, jsonbody

HELLO = {"role": "user", "content": "hello"}
BASE64 = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
LINK = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
DATA_URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
FUNCTION = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def translated(**call: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    body = json.dumps({"max_tokens": 5, "messages": [HELLO], **call}).encode()
    members, changes = anthropic_chat.chat(jsonbody.members(body), "max_tokens")
    return json.loads(jsonbody.encode(members)), changes


def messages(*given: Any, **call: Any) -> Any:
    made, changes = translated(messages=list(given), **call)
    assert changes == ()
    return made["messages"]


def test_the_least_call() -> None:
    assert translated() == ({"messages": [HELLO], "max_tokens": 5, "stream": False}, ())


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"temperature": 0.5, "top_p": 0.25}, {"temperature": 0.5, "top_p": 0.25}),
        ({"temperature": None, "tools": [], "stop_sequences": [], "system": "", "top_k": None, "thinking": {"type": "disabled"}}, {}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"tools": [TOOL]}, {"tools": [FUNCTION]}),
        ({"tools": [{"type": "custom", "name": "f", "input_schema": {}, "strict": True}]},
         {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {}}}]}),
        ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, {"tools": [FUNCTION], "tool_choice": "auto"}),
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tools": [FUNCTION], "tool_choice": "none"}),
        ({"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
         {"tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False}),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}},
         {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}}),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
         {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}}}),
    ],
)  # fmt: skip
def test_fields_that_go_over(given: dict[str, Any], made: dict[str, Any]) -> None:
    assert translated(**given) == ({"messages": [HELLO], "max_tokens": 5, "stream": False} | made, ())


def test_numbers_stay_as_they_were_written() -> None:
    found = jsonbody.members(b'{"max_tokens": 5, "messages": [{"role": "user", "content": "x"}], "temperature": 1.0e-1}')
    assert bytes(anthropic_chat.chat(found, "max_tokens")[0]["temperature"]) == b"1.0e-1"


def test_the_limit_goes_by_the_providers_name_for_it() -> None:
    found = jsonbody.members(json.dumps({"max_tokens": 5, "messages": [HELLO]}).encode())
    assert bytes(anthropic_chat.chat(found, "max_completion_tokens")[0]["max_completion_tokens"]) == b"5"


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ([HELLO], [HELLO]),
        ([{"role": "user", "content": [text("a"), text("b")]}], [{"role": "user", "content": "a\nb"}]),
        ([{"role": "user", "content": [text("a"), BASE64]}], [{"role": "user", "content": [text("a"), DATA_URL]}]),
        ([{"role": "user", "content": [LINK]}],
         [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]),
        ([HELLO, {"role": "assistant", "content": "yes"}, HELLO], [HELLO, {"role": "assistant", "content": "yes"}, HELLO]),
        ([{"role": "system", "content": "now"}, HELLO], [{"role": "system", "content": "now"}, HELLO]),
        (
            [HELLO, {"role": "assistant", "content": [text("look"), {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
             {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "4"}, text("so?")]}],
            [HELLO, {"role": "assistant", "content": "look", "tool_calls": [
                {"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]},
             {"role": "tool", "tool_call_id": "t", "content": "4"}, {"role": "user", "content": "so?"}],
        ),
        (
            [HELLO, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
             {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [text("4"), text("5")]}]},
             HELLO],
            [HELLO, {"role": "assistant", "content": None, "tool_calls": [
                {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
             {"role": "tool", "tool_call_id": "t", "content": "4\n5"}, HELLO],
        ),
        ([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}],
         [{"role": "tool", "tool_call_id": "t", "content": ""}]),
    ],
)  # fmt: skip
def test_messages_that_go_over(given: list[Any], made: list[Any]) -> None:
    assert messages(*given) == made


@pytest.mark.parametrize("system", ["be brief\nplease", [text("be brief"), text("please")]])
def test_the_system_prompt_comes_first(system: Any) -> None:
    assert messages(HELLO, system=system) == [{"role": "system", "content": "be brief\nplease"}, HELLO]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"top_k": 5, "metadata": {"user_id": "u"}, "made_up": 1}, "top_k, metadata, made_up dropped"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking dropped"),
        ({"thinking": {"type": "adaptive"}}, "thinking dropped"),
        ({"output_config": {"effort": "low"}}, "output_config.effort dropped"),
        ({"system": [text("x", cache_control={"type": "ephemeral"})]}, "cache_control dropped"),
        ({"messages": [{"role": "user", "content": [text("x", cache_control={}, citations=[]), {**LINK, "cache_control": {}}]}]},
         "cache_control, citations dropped"),
        ({"tools": [{**TOOL, "input_examples": [{}], "cache_control": None}]}, "input_examples dropped"),
        ({"messages": [HELLO, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}, text("z")]}, HELLO]},
         "thinking blocks dropped"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x", "is_error": True}]}]},
         "is_error sent as the word Error"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [LINK]}]}]},
         "pictures of tool results sent beside them"),
        ({"ä\r\n": 1}, "%C3%A4%0D%0A dropped"),
    ],
)  # fmt: skip
def test_what_does_not_go_over_is_told_once(given: dict[str, Any], said: str) -> None:
    assert translated(**given)[1] == (said,)


def test_a_tools_error_and_its_pictures_reach_the_model() -> None:
    failed = {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": [text("no"), BASE64]}
    made, _ = translated(messages=[{"role": "user", "content": [failed, text("why?")]}])
    assert made["messages"] == [
        {"role": "tool", "tool_call_id": "t", "content": "Error: no"},
        {"role": "user", "content": [DATA_URL, text("why?")]},
    ]


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stop_sequences": [1]}, "stop_sequences"),
        ({"system": 3}, "system"),
        ({"system": [BASE64]}, "system"),
        ({"tools": {}}, None),
        ({"tools": {"a": 1}}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": []}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"output_config": 1}, "output_config"),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [1]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "A"}}]}]},
         "messages[0].content[0].source.media_type"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [{"role": "assistant", "content": [BASE64]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t"}]}]}, "messages[0].content[0].name"),
    ],
)  # fmt: skip
def test_what_is_out_of_form_is_refused_by_its_place(given: dict[str, Any], place: str | None) -> None:
    if place is None:
        assert "tools" not in translated(**given)[0]
        return
    with pytest.raises(BadRequest) as caught:
        translated(**given)
    assert (caught.value.status, (caught.value.param or "").startswith(place)) == (400, True), caught.value.param


NAMES = st.sampled_from(["type", "text", "source", "content", "name", "id", "input", "tool_use_id", "role", "input_schema", "data", "url"])
KINDS = st.sampled_from(["text", "image", "tool_use", "tool_result", "base64", "url", "tool", "any", "user", "assistant", "custom", "x"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | KINDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
FIELDS = st.sampled_from(["system", "tools", "tool_choice", "output_config", "stop_sequences", "thinking", "metadata", "mcp_servers"])


@given(st.lists(ANYTHING, max_size=3), st.dictionaries(FIELDS, ANYTHING, max_size=4))
def test_nothing_that_is_json_breaks_it(given_messages: list[Any], fields: dict[str, Any]) -> None:
    found = jsonbody.members(json.dumps({"max_tokens": 5, "messages": given_messages, **fields}).encode())
    with suppress(SensoriumError):
        anthropic.contents(found)
        members, _ = anthropic_chat.chat(found, "max_tokens")
        assert {"messages", "max_tokens", "stream"} <= set(members)
