"""Anthropic's dialect: its errors, what a Messages call must hold, and what in it no other protocol carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from sensorium.errors import BadRequest, SensoriumError
from sensorium.wire import jsonbody
from sensorium.wire.jsonbody import Members

VERSION: Final = "2023-06-01"  # of the protocol, for callers that name none
SENT_ON: Final = ("anthropic-version", "anthropic-beta")  # headers of the caller that a provider of this dialect gets
KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
STATUSES: Final = {kind: status for status, kind in KINDS.items()}
# content blocks that go over into OpenAI's protocol, and those that are left out there because a model does without them
CARRIED: Final = ("text", "image", "tool_use", "tool_result")
LEFT_OUT: Final = ("thinking", "redacted_thinking")
OWN_MEMBERS: Final = ("mcp_servers", "container")  # they give the model what nobody else could
HEADER_CAP: Final = 2000  # characters


@dataclass(frozen=True, slots=True)
class Contents:
    """What a call holds: the capabilities that it needs, and the first thing in it that only Anthropic's own protocol carries."""

    needs: frozenset[str]
    own: str | None


def error(err: SensoriumError, request_id: str) -> bytes:
    """The whole error body in Anthropic's shape. The hint stands in the message, the code where Anthropic's clients look for one."""
    said = err.message if err.hint is None else f"{err.message}; {err.hint}"
    return _error(err.status, said, err.code, request_id)


def refusal(status: int, said: str, code: str | None, request_id: str) -> bytes:
    """The error body of somebody else's refusal, in the words that it had."""
    return _error(status, said or f"the model's provider answered {status}", code or "upstream_refused", request_id)


def status_of(event: Any) -> int | None:
    """The HTTP status that an error inside a stream would have had as an answer; None when it is not of Anthropic's shape."""
    told = event.get("error") if isinstance(event, dict) and event.get("type") == "error" else None
    return STATUSES.get(str(told.get("type"))) if isinstance(told, dict) else None


def sent_on(name: str, text: str) -> str:
    """A header's text as it may go on. Raises BadRequest for what no header of that name holds."""
    if len(text) > HEADER_CAP or not (text.isascii() and text.isprintable()):
        raise BadRequest(f"the header {name} must be plain ASCII of at most {HEADER_CAP} characters", param=name)
    return text


def require_max_tokens(found: Members) -> None:
    """Raises BadRequest without one: in this protocol the caller always says how long an answer may get."""
    if jsonbody.value(found, "max_tokens") is None:
        raise BadRequest("max_tokens is missing; send the most tokens that the answer may have", param="max_tokens")


def contents(found: Members) -> Contents:
    """Look through a call. Raises BadRequest unless `messages` is a non-empty array of objects."""
    messages = conversation(found)
    blocks = [block for place, message in enumerate(messages) for block in _blocks(message.get("content"), f"messages[{place}].content")]
    picture = any(block.get("type") == "image" for _, block in blocks)
    own = next((said for said in (*_own_blocks(blocks), *_own_members(found)) if said), None)
    if own is None and messages[-1].get("role") == "assistant":
        own = f"messages[{len(messages) - 1}] is the beginning of the answer (prefill)"
    return Contents(frozenset({"vision"} if picture else {"text"}), own)


def conversation(found: Members) -> list[dict[str, Any]]:
    """The messages. Raises BadRequest unless they are a non-empty array of objects."""
    return jsonbody.objects(found, "messages", BadRequest)


def _error(status: int, said: str, code: str, request_id: str) -> bytes:
    kind = KINDS.get(status, "api_error" if status > 500 else "invalid_request_error")
    told = {"type": kind, "message": said, "details": {"error_code": code}}
    return msgspec.json.encode({"type": "error", "error": told, "request_id": request_id})


def _blocks(content: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All blocks with their places, those inside a tool's result too."""
    for place, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, dict):
            yield f"{where}[{place}]", block
            if block.get("type") == "tool_result":
                yield from _blocks(block.get("content"), f"{where}[{place}].content")


def _own_blocks(blocks: list[tuple[str, dict[str, Any]]]) -> Iterator[str | None]:
    for where, block in blocks:
        kind, source = block.get("type"), block.get("source")
        if isinstance(kind, str) and kind not in (*CARRIED, *LEFT_OUT):
            yield f"{where} is a block of type {kind:.60}"
        elif kind == "image" and isinstance(source, dict) and source.get("type") == "file":
            yield f"{where} is a picture in Anthropic's file store"


def _own_members(found: Members) -> Iterator[str | None]:
    for name in OWN_MEMBERS:
        yield f"{name} is given" if jsonbody.value(found, name) else None
    tools = jsonbody.value(found, "tools")
    for place, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind != "custom":
            yield f"tools[{place}] is Anthropic's own tool {kind:.60}"
