"""A Messages call of Anthropic's protocol as a chat call of OpenAI's.

TAKEN is the table of what goes over. Any other member that is given is dropped and listed, because an answer can do without it; a call
with a part that the model would have to see, such as a document, never gets here (`anthropic.contents`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from sensorium.errors import BadRequest
from sensorium.wire import anthropic, jsonbody, parameters
from sensorium.wire.jsonbody import Members

# Not here, and so dropped: metadata (its user_id would be OpenAI's `user`, which NVIDIA's strict bodies refuse), top_k, thinking,
# cache_control, service_tier, output_config.effort, a tool's input_examples, and what is unknown.
TAKEN: Final[dict[str, tuple[str, ...]]] = {
    "call": (
        *("model", "messages", "system", "max_tokens", "stop_sequences", "temperature", "top_p", "stream"),
        *("tools", "tool_choice", "output_config"),
    ),
    "message": ("role", "content"),
    "text": ("type", "text"),
    "image": ("type", "source"),
    "tool_use": ("type", "id", "name", "input"),
    "tool_result": ("type", "tool_use_id", "content", "is_error"),
    "tool": ("type", "name", "description", "input_schema", "strict"),
    "tool_choice": ("type", "name", "disable_parallel_tool_use"),
    "output_config": ("format",),
}
CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
BETWEEN: Final = "\n"  # text blocks, where a plain string is sent: many text models take nothing else


def chat(found: Members, limit: str) -> tuple[Members, tuple[str, ...]]:
    """The chat call, and what was changed in it. `limit` is what the provider calls the most tokens of an answer.

    Usage is asked for on streams too. Raises BadRequest for what is out of form, naming its place.
    """
    made = _Translation()
    members: Members = {"messages": _raw(made.conversation(found))}
    members[limit] = _raw(_limit(found))
    members |= {name: found[name] for name in ("temperature", "top_p") if _given(found, name)}
    stops = stop_sequences(found)
    if stops:
        members["stop"] = _raw(stops)
    members["stream"] = _raw(jsonbody.flag(found, "stream"))
    if jsonbody.flag(found, "stream"):
        members["stream_options"] = _raw({"include_usage": True})
    members |= made.tools(found)
    members |= made.output(found)
    made.left(_named(found), "call")
    return members, made.changes()


def stop_sequences(found: Members) -> tuple[str, ...]:
    """Texts that end the answer. Raises BadRequest."""
    given = jsonbody.value(found, "stop_sequences") or []
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise BadRequest("stop_sequences must be an array of strings", param="stop_sequences")
    return tuple(given)


def thinks_aloud(found: Members) -> bool:
    """Whether the caller wants to see what the model thinks."""
    given = jsonbody.value(found, "thinking")
    return isinstance(given, dict) and given.get("type") not in (None, "disabled")


class _Translation:
    """One call on its way; what is left behind gathers in it."""

    def __init__(self) -> None:
        self._dropped: dict[str, None] = {}
        self._said: dict[str, None] = {}

    def changes(self) -> tuple[str, ...]:
        """What differs from the caller's body, one phrase each."""
        dropped = (f"{parameters.listed([*self._dropped])} dropped",) if self._dropped else ()
        return (*dropped, *self._said)

    def left(self, given: Mapping[str, Any], kind: str) -> None:
        """Note the members of something of `kind` that are not taken over."""
        self._dropped |= dict.fromkeys(name for name, value in given.items() if name not in TAKEN[kind] and value is not None)

    def conversation(self, found: Members) -> list[dict[str, Any]]:
        """OpenAI's messages, the system's first."""
        system = self._text(jsonbody.value(found, "system"), "system")
        made: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        for place, message in enumerate(anthropic.conversation(found)):
            where, role = f"messages[{place}]", message.get("role")
            self.left(message, "message")
            if role == "user":
                made += self._user(message.get("content"), f"{where}.content")
            elif role == "assistant":
                made.append(self._assistant(message.get("content"), f"{where}.content"))
            elif role == "system":
                made.append({"role": "system", "content": self._text(message.get("content"), f"{where}.content")})
            else:
                raise BadRequest(f"{where}.role must be user or assistant", param=f"{where}.role")
        return made

    def tools(self, found: Members) -> Members:
        """`tools`, `tool_choice` and whether several may be called at once."""
        given = jsonbody.value(found, "tools")
        if not given:
            return {}
        if not isinstance(given, list):
            raise BadRequest("tools must be an array", param="tools")
        members = {"tools": _raw([self._tool(tool, f"tools[{place}]") for place, tool in enumerate(given)])}
        choice = jsonbody.value(found, "tool_choice")
        if choice is None:
            return members
        if not isinstance(choice, dict):
            raise BadRequest("tool_choice must be an object", param="tool_choice")
        self.left(choice, "tool_choice")
        kind = str(choice.get("type"))
        if kind == "tool":
            members["tool_choice"] = _raw({"type": "function", "function": {"name": _string(choice, "name", "tool_choice")}})
        elif kind in CHOICES:
            members["tool_choice"] = _raw(CHOICES[kind])
        else:
            raise BadRequest("tool_choice.type must be auto, any, tool or none", param="tool_choice.type")
        return members | ({"parallel_tool_calls": _raw(False)} if choice.get("disable_parallel_tool_use") is True else {})

    def output(self, found: Members) -> Members:
        """The schema that the answer must follow."""
        given = jsonbody.value(found, "output_config")
        if given is None:
            return {}
        if not isinstance(given, dict):
            raise BadRequest("output_config must be an object", param="output_config")
        self._dropped |= {f"output_config.{name}": None for name in given if name not in TAKEN["output_config"]}
        form = given.get("format")
        if form is None:
            return {}
        if not isinstance(form, dict) or form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
            raise BadRequest("output_config.format must have type json_schema and a schema", param="output_config.format")
        schema = {"name": "answer", "schema": form["schema"], "strict": True}
        return {"response_format": _raw({"type": "json_schema", "json_schema": schema})}

    def _tool(self, tool: Any, where: str) -> dict[str, Any]:
        if not isinstance(tool, dict):
            raise BadRequest(f"{where} must be an object", param=where)
        self.left(tool, "tool")
        function: dict[str, Any] = {"name": _string(tool, "name", where)}
        if not isinstance(tool.get("input_schema"), dict):
            raise BadRequest(f"{where}.input_schema must be a JSON schema", param=f"{where}.input_schema")
        function |= {name: tool[name] for name in ("description", "strict") if tool.get(name) is not None}
        return {"type": "function", "function": function | {"parameters": tool["input_schema"]}}

    def _user(self, content: Any, where: str) -> list[dict[str, Any]]:
        """Results of tools, each a message of its own, then what else the user says, with the pictures that tools gave."""
        results, parts = [], []
        for place, block in _listed(content, where):
            if block.get("type") == "tool_result":
                told, pictures = self._result(block, place)
                results.append(told)
                parts += pictures
            else:
                parts.append(self._part(block, place))
        return results if results and not parts else [*results, {"role": "user", "content": _plain(parts)}]

    def _result(self, block: dict[str, Any], where: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        self.left(block, "tool_result")
        parts = [self._part(one, place) for place, one in _listed(block.get("content") or "", f"{where}.content")]
        pictures = [part for part in parts if part["type"] == "image_url"]
        said = BETWEEN.join(part["text"] for part in parts if part["type"] == "text")
        if pictures:
            self._said["pictures of tool results sent beside them"] = None
        if block.get("is_error") is True:
            said = f"Error: {said}"  # there is no other place for it
            self._said["is_error sent as the word Error"] = None
        return {"role": "tool", "tool_call_id": _string(block, "tool_use_id", where), "content": said}, pictures

    def _assistant(self, content: Any, where: str) -> dict[str, Any]:
        texts, calls = [], []
        for place, block in _listed(content, where):
            if block.get("type") in anthropic.LEFT_OUT:
                self._dropped["thinking blocks"] = None
            elif block.get("type") == "tool_use":
                self.left(block, "tool_use")
                arguments = msgspec.json.encode(block.get("input") or {}).decode()
                function = {"name": _string(block, "name", place), "arguments": arguments}
                calls.append({"id": _string(block, "id", place), "type": "function", "function": function})
            elif block.get("type") == "text":
                texts.append(self._part(block, place)["text"])
            else:
                raise BadRequest(f"{place}: the assistant says text and uses tools, nothing else", param=place)
        said = BETWEEN.join(texts) if texts or not calls else None
        return {"role": "assistant", "content": said} | ({"tool_calls": calls} if calls else {})

    def _part(self, block: dict[str, Any], where: str) -> dict[str, Any]:
        """A text or a picture."""
        if block.get("type") == "text":
            self.left(block, "text")
            return {"type": "text", "text": _string(block, "text", where, empty=True)}
        if block.get("type") == "image":
            self.left(block, "image")
            return {"type": "image_url", "image_url": {"url": _url(block.get("source"), f"{where}.source")}}
        raise BadRequest(f"{where}: a block of type {block.get('type')!s:.60} has no place here", param=where)

    def _text(self, content: Any, where: str) -> str:
        """A string or text blocks."""
        parts = [self._part(block, place) for place, block in _listed(content or "", where)]
        if any(part["type"] != "text" for part in parts):
            raise BadRequest(f"{where} may hold text only", param=where)
        return BETWEEN.join(part["text"] for part in parts)


def _listed(content: Any, where: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """The blocks with their places; a string is one text block. Raises BadRequest."""
    if isinstance(content, str):
        return [(where, {"type": "text", "text": content})]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise BadRequest(f"{where} must be a string or an array of blocks", param=where)
    return [(f"{where}[{place}]", block) for place, block in enumerate(content)]


def _plain(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    return parts if any(part["type"] != "text" for part in parts) else BETWEEN.join(part["text"] for part in parts)


def _url(source: Any, where: str) -> str:
    kind = source.get("type") if isinstance(source, dict) else None
    if kind == "base64":
        return f"data:{_string(source, 'media_type', where)};base64,{_string(source, 'data', where)}"
    if kind == "url":
        return _string(source, "url", where)
    raise BadRequest(f"{where}.type must be base64 or url", param=where)


def _limit(found: Members) -> int:
    given = jsonbody.value(found, "max_tokens")
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise BadRequest(f"max_tokens is {parameters.shown(given)}; send an integer above 0", param="max_tokens")
    return given


def _string(given: Mapping[str, Any], name: str, where: str, *, empty: bool = False) -> str:
    text = given.get(name)
    if not isinstance(text, str) or not (text or empty):
        raise BadRequest(f"{where}.{name} must be a {'' if empty else 'non-empty '}string", param=f"{where}.{name}")
    return text


def _named(found: Members) -> dict[str, Any]:
    """The members that are there and not null, without their values; thinking that is turned off counts as not there."""
    silent = () if thinks_aloud(found) else ("thinking",)
    return {name: True for name, raw in found.items() if bytes(raw) != b"null" and name not in silent}


def _given(found: Members, name: str) -> bool:
    return jsonbody.value(found, name) is not None


def _raw(given: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(given))
