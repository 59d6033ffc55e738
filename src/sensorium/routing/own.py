"""Links to this hub's own files in a call, which go on as data: no provider can reach them, and no engine may fetch them.

Only members that hold such a link are written anew; of a call without one nothing is read but its bytes, for the path of our links.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeGuard

import msgspec

from sensorium.errors import InvalidImage, SensoriumError
from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.dispatch import Send
from sensorium.store.database import StoreUnavailable
from sensorium.wire import dataurl, jsonbody, picture
from sensorium.wire.filelinks import PREFIX

MOST_BYTES: Final = 32 * 1024 * 1024  # of a file inside a call
MOST_TOGETHER: Final = 64 * 1024 * 1024  # of all files of ours inside one: a short link may stand there a thousand times
MEMBERS: Final = ("messages", "image", "images", "image_url")
MARKS: Final = (PREFIX.encode(), PREFIX.replace("/", "\\/").encode())  # some encoders write every slash escaped
HINT: Final = "upload the file again, or send it as a data: URL"
Read = Callable[[str, str, int | None], tuple[bytes, str] | None]
Place = tuple[str, Any, Any, str]  # where it is, what holds it, under which name or number, the URL


class FilesUnavailable(SensoriumError):
    """The store of files cannot be read now; no other route could do better."""

    code, status = "store_unavailable", 503


class Own:
    """A transport before `send` that reads our files through `read(url, caller, most)` (as `Files.own`), for every route alike."""

    def __init__(self, send: Send, read: Read) -> None:
        self._send, self._read = send, read

    async def __call__(self, call: Call, route: Route) -> Reply:
        """The reply of `send`. Raises InvalidImage, which names the part, for a link of ours that gives no file to this caller, and
        FilesUnavailable."""
        return await self._send(await inlined(call, self._read), route)


async def inlined(call: Call, read: Read) -> Call:
    """The call, the files of ours in it as data. Raises as `Own` does."""
    marked = [name for name in MEMBERS if name in call.members and _marked(bytes(call.members[name]))]
    return await asyncio.to_thread(_inlined, call, read, marked) if marked else call


def _marked(raw: bytes) -> bool:
    return b"files" in raw and any(mark in raw for mark in MARKS)  # one search is enough for nearly every call


def _inlined(call: Call, read: Read, names: Sequence[str]) -> Call:
    left, changes, members = MOST_TOGETHER, list[str](), dict(call.members)
    for name in names:
        holder, count = {name: jsonbody.value(call.members, name)}, len(changes)
        for where, held, key, url in _places(holder, name):
            found = _read(read, url, call.caller, where, min(MOST_BYTES, left))
            if found is None:
                continue
            data, media = found
            left -= len(data)
            held[key] = _source(held[key], media, data) if isinstance(held[key], dict) else dataurl.build(media, data)
            changes.append(f"{where}: read from the store")
        if len(changes) > count:
            members[name] = msgspec.Raw(msgspec.json.encode(holder[name]))
    return replace(call, members=members, changes=(*call.changes, *changes)) if changes else call


def _read(read: Read, url: str, caller: str, where: str, most: int) -> tuple[bytes, str] | None:
    """The bytes of a file of ours with their media type."""
    try:
        found = read(url, caller, most)
    except StoreUnavailable as error:
        raise FilesUnavailable(f"{where}: {error.message}", param=where, retry_after=error.retry_after) from None
    except SensoriumError as error:
        raise InvalidImage(f"{where}: {error.message}", param=where, hint=error.hint or HINT) from None
    if found is None:
        return None
    data, declared = found
    return data, picture.media_type(data[:16]) or declared.partition(";")[0].strip()


def _source(source: dict[str, Any], media: str, data: bytes) -> dict[str, Any]:
    """The same source of Anthropic's protocol, with the bytes in it."""
    built = dataurl.build(media, data)
    kept = {name: value for name, value in source.items() if name != "url"}
    return {**kept, "type": "base64", "media_type": media, "data": built[built.index(",") + 1 :]}


def _places(holder: dict[str, Any], name: str) -> Iterator[Place]:
    """Every place below a member where the URL of a picture may stand."""
    given = holder[name]
    if name != "messages":
        yield from _urls(holder, name, name)
        return
    for number, message in enumerate(given if isinstance(given, list) else ()):
        if isinstance(message, dict):
            yield from _parts(message.get("content"), f"messages[{number}].content")


def _parts(content: Any, where: str, inner: bool = False) -> Iterator[Place]:
    """In the parts of a message, OpenAI's or Anthropic's; the result of a tool has parts of its own, and they have none."""
    for number, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            continue
        at, source = f"{where}[{number}]", part.get("source")
        if part.get("type") in ("image_url", "video_url"):
            yield from _urls(part, part["type"], at)
        elif part.get("type") == "tool_result" and not inner:
            yield from _parts(part.get("content"), f"{at}.content", inner=True)
        elif isinstance(source, dict) and source.get("type") == "url" and _ours(url := source.get("url")):
            yield at, part, "source", url


def _urls(holder: Any, key: Any, where: str) -> Iterator[Place]:
    """A URL, an object that has it as `url` or `image_url`, or a list of either."""
    given = holder.get(key) if isinstance(holder, dict) else holder[key]
    if _ours(given):
        yield where, holder, key, given
    elif isinstance(given, dict):
        for name in ("url", "image_url"):
            if _ours(url := given.get(name)):
                yield where, given, name, url
    elif isinstance(given, list):
        for number in range(len(given)):
            if not isinstance(given[number], list):
                yield from _urls(given, number, f"{where}[{number}]")


def _ours(url: Any) -> TypeGuard[str]:
    """Whether it may be a link of ours; the store knows."""
    return isinstance(url, str) and PREFIX in url and not dataurl.is_data_url(url)
