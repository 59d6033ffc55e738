"""The two other text routes of a chat container: /v1/completions and /v1/responses.

The specification names the routes only: their bodies are OpenAI's, a guess as a whole. Responses are lenient about unknown fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from sensorium.simulators.nvidia.ask import Ask, read
from sensorium.simulators.nvidia.attachments import described
from sensorium.simulators.nvidia.call import EVENTS
from sensorium.simulators.nvidia.chat import Said, Sampling, say
from sensorium.simulators.replies import Reply, compact, json_reply
from sensorium.wire import sse

DEFAULT_TOKENS = 16


class CompletionBody(Sampling):
    """The body of a text completion."""

    prompt: str | list[str]
    echo: bool | None = None


class ResponseBody(BaseModel):
    """The body of a response, as far as the simulator looks at it."""

    model_config = ConfigDict(extra="ignore")
    input: str | list[dict[str, Any]]
    max_output_tokens: int | None = None
    stream: bool | None = None


def complete(ask: Ask) -> Reply:
    """POST /v1/completions. Raises Refused."""
    body = read(CompletionBody, ask)
    prompt = body.prompt if isinstance(body.prompt, str) else "\n".join(body.prompt)
    said = say(ask, prompt, [], body.max_tokens or DEFAULT_TOKENS)
    head = {"id": f"cmpl-{ask.id}", "object": "text_completion", "created": int(ask.now), "model": ask.model.name}

    def choice(text: str, finish: str | None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]}

    if body.stream:
        frames = [sse.event(compact(choice(word, None))) for word in said.words] + [sse.event(compact(choice("", said.finish)))]
        if (body.stream_options or {}).get("include_usage"):
            frames += [sse.event(compact({**head, "choices": [], "usage": said.usage}))]
        return Reply(200, headers=EVENTS, frames=(*frames, sse.DONE))
    return json_reply({**choice(said.text, said.finish), "usage": said.usage})


def respond(ask: Ask) -> Reply:
    """POST /v1/responses. Raises Refused."""
    body = read(ResponseBody, ask)
    said = say(ask, *_taken_in(ask, body.input), body.max_output_tokens)
    if body.stream:
        return Reply(200, headers=EVENTS, frames=tuple(_events(ask, said)))
    return json_reply(_response(ask, said, "completed" if said.finish == "stop" else "incomplete"))


def _taken_in(ask: Ask, given: str | list[dict[str, Any]]) -> tuple[str, list[str]]:
    if isinstance(given, str):
        return given, []
    text, seen = "", []
    for place, entry in enumerate(given):
        content = entry.get("content")
        parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content if isinstance(content, list) else []
        for number, part in enumerate(part for part in parts if isinstance(part, dict)):
            if isinstance(part.get("text"), str):
                text = part["text"]
            elif isinstance(part.get("image_url"), str):
                seen.append(described("image", part["image_url"], ("input", place, "content", number, "image_url"), ask))
    return text, seen


def _response(ask: Ask, said: Said, status: str) -> dict[str, Any]:
    begun = status == "in_progress"
    usage = {"input_tokens": said.prompt_tokens, "output_tokens": len(said.words), "total_tokens": said.prompt_tokens + len(said.words)}
    return {
        "id": f"resp_{ask.id}",
        "object": "response",
        "created_at": int(ask.now),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "model": ask.model.name,
        "output": [] if begun else [_message(ask, said.text, "completed")],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None if begun else usage,
    }


def _message(ask: Ask, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_text(text)]
    return {"id": f"msg_{ask.id}", "type": "message", "status": status, "role": "assistant", "content": content}


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _events(ask: Ask, said: Said) -> Iterator[bytes]:
    place = {"item_id": f"msg_{ask.id}", "output_index": 0, "content_index": 0}
    ending = "completed" if said.finish == "stop" else "incomplete"
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": _response(ask, said, "in_progress")}),
        ("response.output_item.added", {"output_index": 0, "item": _message(ask, None, "in_progress")}),
        ("response.content_part.added", {**place, "part": _text("")}),
        *(("response.output_text.delta", {**place, "delta": word, "logprobs": []}) for word in said.words),
        ("response.output_text.done", {**place, "text": said.text, "logprobs": []}),
        ("response.content_part.done", {**place, "part": _text(said.text)}),
        ("response.output_item.done", {"output_index": 0, "item": _message(ask, said.text, "completed")}),
        (f"response.{ending}", {"response": _response(ask, said, ending)}),
    ]
    for number, (kind, event) in enumerate(events):
        yield f"event: {kind}\n".encode() + sse.event(compact({"type": kind, "sequence_number": number, **event}))
