"""Chat models of the catalogue as apps: a prompt with or without a picture, or OpenAI's messages, answered as a text that grows."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from sensorium.apps.answers import Said, answered, count, growing
from sensorium.apps.app import Output, Task
from sensorium.apps.files import Files, Inlining, inlined
from sensorium.apps.pictures import blamed_on
from sensorium.apps.works import Run
from sensorium.errors import SensoriumError
from sensorium.routing import byline
from sensorium.routing.call import Dialect
from sensorium.wire import openai
from sensorium.wire.fal_errors import Refused, detail
from sensorium.wire.fal_input import FIRST, REAL, WHOLE, OpenInput, Text, blamed, described, read

DIALECTS: Final[tuple[Dialect, ...]] = ("openai", "fal")
SAID_EVERY: Final = 400  # characters between two lines of the log
OURS: Final = ("model", "messages", "stream", "stream_options", "n")  # members of the call that an input does not set
PARAMETERS: Final = {name: name for name in ("max_tokens", "temperature", "top_p", "seed", "stop", "messages")}


class ChatInput(OpenInput):
    """What is said to the model: `prompt`, or `messages`."""

    prompt: Annotated[Text | None, described("What to say. Needed where there are no messages.")] = None
    system_prompt: Annotated[Text | None, described("What holds for the whole answer.")] = None
    image_url: Annotated[Text | None, described("URL of a picture to talk about.")] = None
    messages: Annotated[
        Annotated[list[dict[str, Any]], Field(min_length=1), FIRST] | None, described("A conversation, as in OpenAI's chat.")
    ] = None
    max_tokens: Annotated[Annotated[int, Field(ge=1), WHOLE] | None, described("Most tokens of the answer.")] = None
    temperature: Annotated[
        Annotated[float, Field(ge=0, le=2, allow_inf_nan=False), REAL] | None, described("How freely to choose words.")
    ] = None
    top_p: Annotated[
        Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), REAL] | None, described("The share of likely words to choose from.")
    ] = None


class ChatUsage(BaseModel):
    """Tokens; 0 where whoever answered does not tell."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatOutput(BaseModel):
    """The answer, why it ended (`stop`, `length`), and what it cost."""

    output: str
    finish_reason: str | None
    usage: ChatUsage


async def talk(run: Run) -> AsyncGenerator[Output, None]:
    """The answer as it grows, then the whole output."""
    task = run.task
    asked = read(ChatInput, task.input)
    messages = await _messages(run.files, task, asked)
    numbers = {"max_tokens": asked.max_tokens, "temperature": asked.temperature, "top_p": asked.top_p}
    given = {
        "messages": messages,
        **numbers,
        **asked.more(*OURS),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    call = run.call("chat", DIALECTS, "chat/completions", given, stream=True)
    call = replace(call, needs=openai.chat_needs(call.members))
    said, shown, logged = Said(), "", 0
    try:
        reply = await answered(run.dispatch, call)
        async with aclosing(growing(reply)) as growth:
            async for said in growth:
                if said.text != shown:
                    shown = said.text
                    if len(shown) - logged >= SAID_EVERY or not logged:
                        logged = len(shown)
                        task.log(f"{logged} characters")
                    yield Output({"output": shown}, headers=byline.origin(reply))
    except SensoriumError as error:
        field = "image_url" if asked.image_url is not None else "messages"
        fields = PARAMETERS | {"messages": "prompt" if asked.messages is None else "messages", "model": field}
        raise blamed(blamed_on(error, task, field, asked.image_url or ""), fields) from None
    usage = {name: count(said.usage.get(name)) for name in ChatUsage.model_fields}
    usage["total_tokens"] = usage["total_tokens"] or usage["prompt_tokens"] + usage["completion_tokens"]
    yield Output({"output": said.text, "finish_reason": said.reason, "usage": usage}, headers=byline.origin(reply))


async def _messages(files: Files, task: Task, asked: ChatInput) -> list[dict[str, Any]]:
    """The conversation, files of ours in it as data: URLs. Raises Refused where there is nothing to say, or it is said twice."""
    if asked.messages is not None:
        if asked.prompt is not None or asked.image_url is not None:
            raise Refused([detail("messages", "send messages, or prompt and image_url, not both", "value_error")])
        inlining = Inlining(files, task)
        return [await _own(inlining, message) for message in asked.messages]
    if asked.prompt is None:
        raise Refused([detail("prompt", "Field required", "missing")])
    system = [{"role": "system", "content": asked.system_prompt}] if asked.system_prompt is not None else []
    if asked.image_url is None:
        return [*system, {"role": "user", "content": asked.prompt}]
    url = await inlined(files, task, "image_url", asked.image_url)
    parts = [{"type": "text", "text": asked.prompt}, {"type": "image_url", "image_url": {"url": url}}]
    return [*system, {"role": "user", "content": parts}]


async def _own(inlining: Inlining, message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts: list[Any] = []
    for part in content:
        held = part.get("image_url") if isinstance(part, dict) else None
        if isinstance(held, str):
            part = {**part, "image_url": await inlining.of("messages", held)}
        elif isinstance(held, dict) and isinstance(held.get("url"), str):
            part = {**part, "image_url": {**held, "url": await inlining.of("messages", held["url"])}}
        parts.append(part)
    return {**message, "content": parts}
