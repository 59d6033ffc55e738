"""Chat completions (4.4, 4.5): strict bodies, whole answers and streams. The answer says what the simulator saw.

Guesses: the set of known fields, the ranges of numbers, that every model is strict, one token per word, 258 tokens per attachment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from sensorium.simulators.nvidia.ask import Ask, Strict, item, read, refuse
from sensorium.simulators.nvidia.attachments import described
from sensorium.simulators.nvidia.call import EVENTS
from sensorium.simulators.replies import Reply, compact, json_reply
from sensorium.wire import sse

ATTACHMENT_TOKENS = 258
ECHOED = 400
KINDS = {"image_url": "image", "video_url": "video", "audio_url": "audio"}
_LEGACY = re.compile(r'<(img|audio|video)\s+src="([^"]+)"\s*/?>')
_WORDS = re.compile(r"\S+\s*")


class Sampling(Strict):
    """What every text route takes."""

    model: str = ""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None


class ChatBody(Sampling):
    """The body of a chat completion."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    nvext: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """A finished answer in its words, and what it cost."""

    words: list[str]
    finish: str
    prompt_tokens: int
    reasoning: str = ""

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.words)

    @property
    def usage(self) -> dict[str, int]:
        """The `usage` member."""
        done = len(self.words) + len(_WORDS.findall(self.reasoning))
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": done, "total_tokens": self.prompt_tokens + done}


def answer(ask: Ask) -> Reply:
    """POST /v1/chat/completions of a container. Raises Refused."""
    body = read(ChatBody, ask)
    said = say(ask, *_taken_in(ask, body.messages), body.max_completion_tokens or body.max_tokens)
    streams = ask.model.streams if body.stream is None else body.stream
    head = {"id": f"chatcmpl-{ask.id}", "created": int(ask.now), "model": ask.model.name}
    if streams:
        return Reply(200, headers=EVENTS, frames=_frames(head, said, bool((body.stream_options or {}).get("include_usage"))))
    message = {"role": "assistant", "content": said.text} | ({"reasoning_content": said.reasoning} if said.reasoning else {})
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": said.finish}
    return json_reply({**head, "object": "chat.completion", "choices": [choice], "usage": said.usage})


def say(ask: Ask, text: str, seen: list[str], limit: int | None) -> Said:
    """The answer to `text` and to what was seen beside it, in at most `limit` words."""
    sentences = [f"Attachment {number} is {one}." for number, one in enumerate(seen, 1)]
    whole = _WORDS.findall(" ".join([*sentences, f'You wrote: "{text[:ECHOED]}"']))
    words = whole[:limit]
    reasoning = f"The request holds {len(text)} characters and {len(seen)} attachments." if ask.model.reasons else ""
    tokens = len(_WORDS.findall(text)) + ATTACHMENT_TOKENS * len(seen)
    return Said(words, "stop" if len(words) == len(whole) else "length", tokens, reasoning)


def _taken_in(ask: Ask, messages: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """The last text of the user, and a sentence about each attachment."""
    text, seen = "", []
    for place, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, str) and message.get("role") == "user":
            text = _LEGACY.sub("", content).strip() if ask.model.vision else content
            found = _LEGACY.findall(content) if ask.model.vision else []
            seen += [described({"img": "image"}.get(tag, tag), url, ("messages", place, "content"), ask) for tag, url in found]
        elif isinstance(content, list):
            if message.get("role") != "user" or not (ask.model.vision or ask.model.audio):
                refuse([item("string_type", ("messages", place, "content"), "Input should be a valid string", content)])
            parts = [_part(ask, part, ("messages", place, "content", number)) for number, part in enumerate(content)]
            text = " ".join(said for kind, said in parts if kind == "text")
            seen += [said for kind, said in parts if kind != "text"]
        elif content is not None and not isinstance(content, str):
            refuse([item("string_type", ("messages", place, "content"), "Input should be a valid string", content)])
    return text, seen


def _part(ask: Ask, part: Any, where: tuple[str | int, ...]) -> tuple[str, str]:
    """The kind of a content part, and its text or the sentence about it."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return "text", part["text"]
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        sound = part["input_audio"]
        return "audio", described("audio", f"data:audio/{sound.get('format')};base64,{sound.get('data')}", where, ask)
    holder = part.get(kind) if kind in KINDS else None
    url = holder.get("url") if isinstance(holder, dict) else holder
    if kind not in KINDS or not isinstance(url, str):
        expected = "'text', 'image_url', 'video_url', 'audio_url' or 'input_audio'"
        refuse([item("literal_error", (*where, "type"), f"Input should be {expected}", kind, {"expected": expected})])
    return kind, described(KINDS[kind], url, (*where, kind, "url"), ask)


def _frames(head: dict[str, Any], said: Said, usage: bool) -> tuple[bytes, ...]:
    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse.event(compact({**head, "object": "chat.completion.chunk", "choices": [choice]}))

    frames = [chunk({"role": "assistant", "content": ""})]
    frames += [chunk({"reasoning_content": word}) for word in _WORDS.findall(said.reasoning)]
    frames += [chunk({"content": word}) for word in said.words]
    frames += [chunk({}, said.finish)]
    if usage:
        frames += [sse.event(compact({**head, "object": "chat.completion.chunk", "choices": [], "usage": said.usage}))]
    return (*frames, sse.DONE)
