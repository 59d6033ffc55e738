"""Anthropic's dialect: errors in its shape, what a call must hold, and what only its own protocol carries."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sensorium.errors import BadRequest, SensoriumError, Unauthorized, UpstreamRefused
from sensorium.wire import anthropic, jsonbody

HELLO = {"role": "user", "content": "hello"}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def members(**call: Any) -> jsonbody.Members:
    return jsonbody.members(json.dumps({"messages": [HELLO], **call}).encode())


def user(*blocks: dict[str, Any]) -> jsonbody.Members:
    return members(messages=[{"role": "user", "content": list(blocks)}])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_every_status_has_its_type(status: int, kind: str) -> None:
    told = json.loads(anthropic.error(UpstreamRefused("no", status=status, code="c", source="s"), "r1"))
    assert told == {"type": "error", "error": {"type": kind, "message": "no", "details": {"error_code": "c"}}, "request_id": "r1"}


def test_a_hint_stands_in_the_message() -> None:
    assert json.loads(anthropic.error(Unauthorized("no token", hint="send one"), "r"))["error"]["message"] == "no token; send one"


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"type": "error", "error": {"type": "overloaded_error"}}, 529),
        ({"type": "error", "error": {"type": "rate_limit_error"}}, 429),
        ({"type": "error", "error": {"type": "unheard_of"}}, None),
        ({"type": "error", "error": "x"}, None),
        ({"error": {"type": "rate_limit_error"}}, None),
        ("error", None),
    ],
)
def test_an_error_inside_a_stream_has_the_status_of_its_type(event: Any, status: int | None) -> None:
    assert anthropic.status_of(event) == status


@pytest.mark.parametrize(
    ("found", "needs"),
    [
        (members(), "text"),
        (user({"type": "text", "text": "x"}), "text"),
        (user(PICTURE), "vision"),
        (user({"type": "tool_result", "tool_use_id": "t", "content": [PICTURE]}), "vision"),
    ],
)
def test_what_a_call_contains(found: jsonbody.Members, needs: str) -> None:
    assert anthropic.contents(found) == anthropic.Contents(frozenset({needs}), None)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (user({"type": "text", "text": "x"}, {"type": "document"}), "messages[0].content[1] is a block of type document"),
        (
            user({"type": "tool_result", "content": [{"type": "search_result"}]}),
            "messages[0].content[0].content[0] is a block of type search_result",
        ),
        (
            user({"type": "image", "source": {"type": "file", "file_id": "f"}}),
            "messages[0].content[0] is a picture in Anthropic's file store",
        ),
        (members(tools=[{"name": "f"}, {"type": "web_search_20250305"}]), "tools[1] is Anthropic's own tool web_search_20250305"),
        (members(mcp_servers=[{"url": "x"}]), "mcp_servers is given"),
        (members(container="c"), "container is given"),
        (members(messages=[HELLO, {"role": "assistant", "content": "{"}]), "messages[1] is the beginning of the answer (prefill)"),
    ],
)
def test_what_no_other_protocol_carries_is_named(found: jsonbody.Members, said: str) -> None:
    assert anthropic.contents(found).own == said


@pytest.mark.parametrize(
    "call",
    [
        {"tools": [{"type": "custom", "name": "f"}]},
        {"mcp_servers": [], "container": None},
        {"messages": [HELLO, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}, HELLO]},
    ],
)
def test_what_others_carry_or_do_without_is_not(call: dict[str, Any]) -> None:
    assert anthropic.contents(members(**call)).own is None


@pytest.mark.parametrize("call", [{"messages": None}, {"messages": []}, {"messages": "x"}, {"messages": [1]}, {"messages": {}}])
def test_messages_must_be_there(call: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="messages"):
        anthropic.contents(members(**call))
    with pytest.raises(BadRequest, match="messages is missing"):
        anthropic.contents({})


def test_max_tokens_is_needed() -> None:
    anthropic.require_max_tokens(members(max_tokens=0))
    for found in (members(), members(max_tokens=None)):
        with pytest.raises(BadRequest, match="max_tokens is missing"):
            anthropic.require_max_tokens(found)


@pytest.mark.parametrize("text", ["a\r\nb", "ä", "x" * 2001, "a\x00"])
def test_a_header_that_cannot_go_on_is_refused(text: str) -> None:
    assert anthropic.sent_on("anthropic-beta", "a-2026-01-01,b") == "a-2026-01-01,b"
    with pytest.raises(SensoriumError, match="the header anthropic-beta"):
        anthropic.sent_on("anthropic-beta", text)
