"""Pictures in a chat call for models with rules of their own about them: those that read no URL, those that take only small ones.

Any other route gets what the caller sent, unread. NVIDIA's limit is 180,000 base64 characters where it applies (NVIDIA page, section 4.5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from sensorium.errors import AddressRefused, BadRequest, InvalidImage
from sensorium.routing.call import Route
from sensorium.routing.payload import Payload
from sensorium.wire import dataurl, jsonbody, picture

Fetch = Callable[[str], Awaitable[bytes]]


async def fitted(sent: Payload, route: Route, fetch: Fetch) -> Payload:
    """What is sent, with the pictures as the route takes them; `fetch` gets one by its URL.

    Raises InvalidImage and AddressRefused, both naming the part, for a picture that cannot be had, read or made small enough.
    """
    if (route.inline_limit is None and not route.inline_urls) or sent.data is None or b'"image_url"' not in sent.data:
        return sent
    found = jsonbody.members(sent.data)
    messages, changes = jsonbody.value(found, "messages"), list[str]()
    for where, holder in _pictures(messages):
        try:
            holder["url"], changed = await _fitted(holder["url"], route, fetch)
        except AddressRefused as error:
            raise AddressRefused(f"{where}: {error.message}", param=where, hint=error.hint) from None
        except BadRequest as error:
            raise InvalidImage(f"{where}: {error.message}", param=where) from None
        changes += [f"{where}: {changed}"] if changed else []
    if not changes:
        return sent
    return replace(sent, data=jsonbody.encode(found, messages=messages), changes=(*sent.changes, *changes))


def _pictures(messages: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each picture is, and the object that holds its `url`."""
    for place, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for number, part in enumerate(content if isinstance(content, list) else ()):
            holder = part.get("image_url") if isinstance(part, dict) and part.get("type") == "image_url" else None
            if isinstance(holder, dict) and isinstance(holder.get("url"), str):
                yield f"messages[{place}].content[{number}]", holder


async def _fitted(url: str, route: Route, fetch: Fetch) -> tuple[str, str]:
    """The picture's URL as the route takes it, and what was changed ("": nothing)."""
    limit = route.inline_limit
    if dataurl.is_data_url(url):
        if limit is None or len(url) - url.find(",") - 1 <= limit:
            return url, ""
        return await asyncio.to_thread(lambda: _shrunk(picture.unpack(url), limit))
    if not route.inline_urls:
        return url, ""
    data = await fetch(url)
    media = picture.media_type(data)
    if media is None or (limit is not None and _bytes(limit) < len(data)):
        shrunk, changed = await asyncio.to_thread(_shrunk, data, limit)
        return shrunk, f"fetched, {changed}"
    return await asyncio.to_thread(dataurl.build, media, data), "fetched"


def _shrunk(data: bytes, limit: int | None) -> tuple[str, str]:
    # start-up cost: decoders, which few hubs ever need
    from sensorium.wire import decoding

    made = decoding.shrink(data, _bytes(limit) if limit is not None else len(data) * 4)
    return dataurl.build("image/jpeg", made.data), str(made)


def _bytes(characters: int) -> int:
    """How many bytes so many characters of base64 can hold."""
    return characters // 4 * 3
