"""A chat reply of OpenAI's protocol as a message of Anthropic's: a whole one, or a stream, event by event as it arrives.

What the upstream does not count stays null: an unknown number is not 0. Only the two counts at a stream's beginning are 0, because nothing
has been counted then; its end tells them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import msgspec

from sensorium.errors import SensoriumError, UpstreamFailed, UpstreamRefused
from sensorium.wire import sse
from sensorium.wire.failure import understand

REASONS: Final = {"length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use", "content_filter": "refusal"}
THOUGHTS: Final = ("reasoning_content", "reasoning")  # where upstreams put what a model thinks


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller of a reply knows or wants: the message's id, the model that answers, at which provider, its stop sequences, and
    whether it shows what the model thinks."""

    id: str
    model: str
    provider: str
    stops: tuple[str, ...] = ()
    thoughts: bool = False


def message(body: bytes, asked: Asked) -> bytes:
    """The whole message. Raises UpstreamFailed when the body is no chat reply."""
    told = _decoded(body, asked)
    choice = _choice(told)
    if choice is None or not isinstance(choice.get("message"), dict):
        raise UpstreamFailed(f"{asked.provider} answered without a message")
    said: dict[str, Any] = choice["message"]
    cut = choice.get("finish_reason") == "length"
    content: list[dict[str, Any]] = []
    if asked.thoughts and (thought := _thought(said)):
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text := _text(said.get("content")) or _text(said.get("refusal")):
        content.append({"type": "text", "text": text})
    content += [use for number, call in enumerate(_calls(said)) if (use := _use(call, number, asked, cut))]
    uses = any(block["type"] == "tool_use" for block in content)
    reason, stop = _reason(choice, asked, uses, bool(said.get("refusal")))
    return msgspec.json.encode(_message(asked, content, _usage(told.get("usage")), reason, stop))


class Events:
    """A stream on its way. `feed` takes the upstream's bytes in any pieces and gives Anthropic's events; `end` gives the last ones.

    A content block is open from its first delta until another kind of delta comes. Both raise UpstreamFailed and UpstreamRefused.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._frames = sse.Frames()
        self._blocks = -1  # index of the last content block
        self._open: str | None = None  # its type
        self._call: tuple[Any, Any] = (None, None)  # the tool call that is open: its index and id
        self._called: set[Any] = set()  # indexes of the calls that were open
        self._finish: dict[str, Any] | None = None
        self._refused = False
        self._usage: dict[str, Any] | None = None
        self._begun = self._ended = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What the upstream's next bytes say; what comes before an error is said before it is raised."""
        for data in self._frames.feed(piece):
            if not self._ended:
                yield from self._end() if data.strip() == b"[DONE]" else self._chunk(_decoded(data, self._asked))

    def end(self) -> Iterator[bytes]:
        """The upstream's stream is over: what is still to be said. Raises UpstreamFailed when it ended before its finish reason."""
        if self._finish is None and not self._ended:
            raise UpstreamFailed(f"{self._asked.provider} ended its stream before the answer was complete")
        yield from () if self._ended else self._end()

    def _chunk(self, told: dict[str, Any]) -> Iterator[bytes]:
        if told.get("error") and not told.get("choices"):
            _raise(told, self._asked)
        self._usage = told["usage"] if isinstance(told.get("usage"), dict) else self._usage
        yield from self._begin()
        choice = _choice(told)
        if choice is None:
            return
        delta = choice.get("delta")
        yield from self._delta(delta if isinstance(delta, dict) else {})
        if choice.get("finish_reason"):
            self._finish = choice
            yield from self._close()

    def _delta(self, delta: dict[str, Any]) -> Iterator[bytes]:
        if self._asked.thoughts and (thought := _thought(delta)):
            yield from self._shift("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._piece({"type": "thinking_delta", "thinking": thought})
        for name in ("content", "refusal"):
            if text := _text(delta.get(name)):
                self._refused = self._refused or name == "refusal"
                yield from self._shift("text", {"type": "text", "text": ""})
                yield self._piece({"type": "text_delta", "text": text})
        for call in _calls(delta):
            if isinstance(call, dict):
                yield from self._tool(call)

    def _tool(self, call: dict[str, Any]) -> Iterator[bytes]:
        raw = call.get("function")
        function: dict[str, Any] = raw if isinstance(raw, dict) else {}
        index, id = call.get("index"), _text(call.get("id"))
        if not isinstance(index, int):
            index = self._call[0] if self._open == "tool_use" else len(self._called)
        if self._open != "tool_use" or index != self._call[0] or id not in ("", self._call[1]):
            if not id and index in self._called:
                raise UpstreamFailed(f"{self._asked.provider} went back to a tool call that was complete")
            id = id or _made_id(self._asked, self._blocks + 1)
            if not isinstance(function.get("name"), str):
                raise UpstreamFailed(f"{self._asked.provider} called a tool without naming it")
            self._call = (index, id)
            self._called.add(index)
            yield from self._close()
            yield from self._shift("tool_use", {"type": "tool_use", "id": id, "name": function["name"], "input": {}})
        if isinstance(function.get("arguments"), str) and function["arguments"]:
            yield self._piece({"type": "input_json_delta", "partial_json": function["arguments"]})

    def _begin(self) -> Iterator[bytes]:
        if not self._begun:
            self._begun = True
            begun = _message(self._asked, [], {"input_tokens": 0, "output_tokens": 0}, None, None)
            yield _event("message_start", message=begun)

    def _shift(self, kind: str, block: dict[str, Any]) -> Iterator[bytes]:
        """Open a block of this kind, unless it is the one that is open."""
        if self._open != kind:
            yield from self._close()
            self._blocks += 1
            self._open = kind
            yield _event("content_block_start", index=self._blocks, content_block=block)

    def _piece(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._blocks, delta=delta)

    def _close(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open = None
            yield _event("content_block_stop", index=self._blocks)

    def _end(self) -> Iterator[bytes]:
        if not self._begun:
            raise UpstreamFailed(f"{self._asked.provider} ended its stream before the first event")
        self._ended = True
        yield from self._close()
        reason, stop = _reason(self._finish or {}, self._asked, bool(self._called), self._refused)
        yield _event("message_delta", delta={"stop_reason": reason, "stop_sequence": stop}, usage=_usage(self._usage))
        yield _event("message_stop")


def _event(kind: str, **members: Any) -> bytes:
    return sse.event(msgspec.json.encode({"type": kind, **members}), kind)


def _message(asked: Asked, content: list[Any], usage: dict[str, Any], reason: str | None, stop: str | None) -> dict[str, Any]:
    head = {"id": asked.id, "type": "message", "role": "assistant", "model": asked.model}
    return {**head, "content": content, "stop_reason": reason, "stop_sequence": stop, "usage": usage}


def _decoded(body: bytes, asked: Asked) -> dict[str, Any]:
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise UpstreamFailed(f"{asked.provider} answered something that is not JSON")
    return told


def _choice(told: dict[str, Any]) -> dict[str, Any] | None:
    choices = told.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


def _text(content: Any) -> str:
    """A string, or the text of parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _thought(said: dict[str, Any]) -> str:
    return next((text for name in THOUGHTS if (text := _text(said.get(name)))), "")


def _calls(said: dict[str, Any]) -> list[Any]:
    given = said.get("tool_calls")
    return given if isinstance(given, list) else []


def _use(call: Any, number: int, asked: Asked, cut: bool) -> dict[str, Any] | None:
    """A tool call as a block; None for one whose arguments the token limit has cut."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UpstreamFailed(f"{asked.provider} called a tool without naming it")
    arguments = function.get("arguments") or "{}"
    try:
        given = msgspec.json.decode(arguments) if isinstance(arguments, str) else arguments
    except (msgspec.DecodeError, RecursionError):
        given = None
    if not isinstance(given, dict):
        if cut:
            return None
        raise UpstreamFailed(f"{asked.provider} called the tool {function['name']:.60} with arguments that are not a JSON object")
    return {"type": "tool_use", "id": _text(call.get("id")) or _made_id(asked, number), "name": function["name"], "input": given}


def _made_id(asked: Asked, number: int) -> str:
    return f"toolu_{asked.id}_{number}"


def _reason(choice: dict[str, Any], asked: Asked, uses: bool, refused: bool) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence`. Which sequence it was is known where the upstream tells it, as vLLM does."""
    said, stop = choice.get("finish_reason"), choice.get("stop_reason")
    if isinstance(stop, str) and stop in asked.stops:
        return "stop_sequence", stop
    if isinstance(said, str) and said in REASONS:
        return REASONS[said], None
    return "refusal" if refused else "tool_use" if uses else "end_turn", None


def _usage(told: Any) -> dict[str, Any]:
    given: dict[str, Any] = told if isinstance(told, dict) else {}
    details = given.get("prompt_tokens_details")
    cached = _count(details, "cached_tokens") or 0
    into, out = _count(given, "prompt_tokens"), _count(given, "completion_tokens")
    used: dict[str, Any] = {"input_tokens": None if into is None else max(0, into - cached), "output_tokens": out}
    return used | ({"cache_read_input_tokens": cached} if cached else {})


def _count(told: Any, name: str) -> int | None:
    given = told.get(name) if isinstance(told, dict) else None
    return given if isinstance(given, int) and not isinstance(given, bool) and given >= 0 else None


def _raise(told: dict[str, Any], asked: Asked) -> NoReturn:
    """The error that an upstream tells inside its stream."""
    inner = told["error"].get("code") if isinstance(told["error"], dict) else None
    status = inner if isinstance(inner, int) and 400 <= inner < 600 else 502
    said = understand(status, msgspec.json.encode(told))
    error: SensoriumError = UpstreamRefused(
        said.message or f"{asked.provider} failed in the middle of its answer",
        status=status,
        code=said.code or "upstream_failed",
        source=asked.provider,
    )
    raise error
