"""The files of a run: those of ours among its input are read from the store, those that it makes are stored and linked."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from sensorium.apps.app import Task
from sensorium.errors import BodyTooLarge, SensoriumError
from sensorium.routing.own import MOST_BYTES, MOST_TOGETHER
from sensorium.wire import dataurl, picture
from sensorium.wire.fal_errors import Refused, detail
from sensorium.wire.fal_pictures import UNREACHABLE, too_large
from sensorium.wire.lifecycle import KEPT, Lifecycle


class Kept(Protocol):
    """A stored file."""

    @property
    def key(self) -> str:
        """Its name in the store."""
        ...


class Files(Protocol):
    """The store, as far as apps use it. All but `url` block."""

    def put(
        self, data: bytes, *, owner: str, content_type: str, name: str, request: str | None = None, lifecycle: Lifecycle = KEPT
    ) -> Kept:
        """Store a file."""
        ...

    def url(self, file: Any, base_url: str) -> str:
        """Where it can be read."""
        ...

    def own(self, url: str, caller: str, most: int | None = None) -> tuple[bytes, str] | None:
        """The bytes and media type behind one of our URLs; None for any other. Raises for one of ours that cannot be read, and
        BodyTooLarge for one of more than `most` bytes."""
        ...

    def discard(self, keys: Sequence[str]) -> None:
        """Forget files."""
        ...


class Shelf:
    """Where one run puts its files. `keys` are theirs."""

    def __init__(self, files: Files, task: Task) -> None:
        self._files, self._task = files, task
        self.keys: list[str] = []

    async def put(self, data: bytes, content_type: str, name: str) -> dict[str, Any]:
        """Store a file under `name` and the ending of its type; the file object of an output."""
        task, full = self._task, f"{name}{ending(content_type)}"
        file = await asyncio.to_thread(
            self._files.put,
            data,
            owner=task.caller,
            content_type=content_type,
            name=full,
            request=task.id,
            lifecycle=task.lifecycle,
        )
        self.keys.append(file.key)
        return {
            "url": self._files.url(file, task.base_url),
            "content_type": content_type,
            "file_name": full,
            "file_size": len(data),
        }


@asynccontextmanager
async def shelf(files: Files, task: Task) -> AsyncIterator[Shelf]:
    """A place for the files of `task`. Nothing of a run that fails stays on it."""
    made = Shelf(files, task)
    try:
        yield made
    except BaseException:
        if made.keys:
            await asyncio.shield(asyncio.to_thread(files.discard, made.keys))
        raise


def ending(content_type: str) -> str:
    """The ending of a file's name, with its dot; "" for a type that has none."""
    media = content_type.partition(";")[0].strip()
    return {"image/jpeg": ".jpg", "audio/wav": ".wav"}.get(media) or mimetypes.guess_extension(media) or ""


class Inlining:
    """Files of ours in one input, of MOST_TOGETHER bytes at most."""

    def __init__(self, files: Files, task: Task) -> None:
        self._files, self._task, self._left = files, task, MOST_TOGETHER

    async def of(self, field: str, url: str) -> str:
        """As `inlined`."""
        made = await inlined(self._files, self._task, field, url, min(MOST_BYTES, self._left))
        if made is not url:
            self._left -= len(made) // 4 * 3
        return made


async def inlined(files: Files, task: Task, field: str, url: str, most: int = MOST_BYTES) -> str:
    """The URL, or, where it is a file of ours, a data: URL of it: no provider can reach it, and no engine may fetch it.

    Raises Refused for one of ours that cannot be read or has more than `most` bytes, and for a data: URL of more than MOST_BYTES.
    """
    if dataurl.is_data_url(url):
        if (len(url) - url.find(",") - 1) // 4 * 3 > MOST_BYTES + 2:
            raise too_large(field, url, MOST_BYTES)
        return url
    try:
        found = await asyncio.to_thread(files.own, url, task.caller, max(0, most))
    except BodyTooLarge:
        raise too_large(field, url, max(0, most)) from None
    except SensoriumError as error:
        if error.status >= 500:  # it is the store that cannot be read
            raise
        task.log(f"{field}: {error.message}")
        raise Refused([detail(field, UNREACHABLE, "file_download_error", input=url)]) from None
    if found is None:
        return url
    data, content_type = found
    return await asyncio.to_thread(dataurl.build, picture.media_type(data[:16]) or content_type.partition(";")[0], data)


async def inlined_all(files: Files, task: Task, given: dict[str, Any]) -> dict[str, Any]:
    """An input in which every file of ours stands as a data: URL: members named `*_url`, lists named `*_urls`. Raises as `inlined`."""
    made, inlining = dict(given), Inlining(files, task)
    for name, value in given.items():
        if name.endswith("_url") and isinstance(value, str):
            made[name] = await inlining.of(name, value)
        elif name.endswith("_urls") and isinstance(value, list):
            made[name] = [await inlining.of(name, one) if isinstance(one, str) else one for one in value]
    return made
