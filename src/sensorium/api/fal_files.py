"""Stored files: read through their links, in whole or in part; listed and deleted by their owners."""

from __future__ import annotations

import asyncio
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qs

import msgspec

from sensorium.api.auth import Auth
from sensorium.api.base_url import base_url
from sensorium.api.router import Entry
from sensorium.api.visit import Visit
from sensorium.errors import BadRequest, Forbidden, Unauthorized
from sensorium.store.files import File, Files, UnknownFile
from sensorium.wire import fal_errors, filelinks, filenames, openai, ranges
from sensorium.wire.whole import whole

PIECE: Final = 256 * 1024  # bytes
PAGE, LONGEST_PAGE = 20, 100


class FalFiles:
    """Handlers of /fal/cdn/files, which needs no token, and of /v1/files. `public_url` is the operator's, for links."""

    def __init__(self, files: Files, auth: Auth, public_url: str | None = None) -> None:
        self._files, self._auth, self._public = files, auth, public_url

    async def read(self, visit: Visit) -> None:
        """GET or HEAD of a link. Raises UnknownFile for one that is altered or expired, FileForbidden."""
        link = filelinks.link(visit.params[0])
        if link is None or link.rest:
            raise UnknownFile("there is no such file, or its link has expired")
        file, opened = await asyncio.to_thread(self._files.linked, link, lambda: self._caller(visit))
        with opened:
            await visit.whole_body()  # there is none, and from here on it is heard when the caller leaves
            await self._send(visit, file, opened)

    async def listed(self, visit: Visit) -> None:
        """GET /v1/files: the caller's own, the newest first; `limit`, `after`."""
        query = parse_qs(visit.query.decode("latin-1"))
        limit = whole(query.get("limit", [str(PAGE)])[0], 1, LONGEST_PAGE)
        if limit is None:
            raise BadRequest(f"limit is a number, 1..{LONGEST_PAGE}", param="limit")
        after = query["after"][0] if "after" in query else None
        found = await asyncio.to_thread(self._files.listed, visit.caller, limit + 1, after)
        page = [await self._shown(visit, file) for file in found[:limit]]
        await visit.answer(msgspec.json.encode({"object": "list", "data": page, "has_more": len(found) > len(page)}))

    async def entry(self, visit: Visit) -> None:
        """GET /v1/files/KEY. Raises UnknownFile."""
        file = await asyncio.to_thread(self._files.of, visit.caller, visit.params[0])
        await visit.answer(msgspec.json.encode(await self._shown(visit, file)))

    async def remove(self, visit: Visit) -> None:
        """DELETE /v1/files/KEY: its links end at once. Raises UnknownFile."""
        file = await asyncio.to_thread(self._files.of, visit.caller, visit.params[0])
        await asyncio.to_thread(self._files.discard, [file.key])
        await visit.answer(msgspec.json.encode({"id": file.key, "object": "file", "deleted": True}))

    async def _send(self, visit: Visit, file: File, opened: BinaryIO) -> None:
        etag = f'"{file.sha256}"'
        headers = {
            "etag": etag,
            "accept-ranges": "bytes",
            "cache-control": "private, no-cache",
            "x-content-type-options": "nosniff",
            "content-security-policy": "default-src 'none'",
            "x-sensorium-source": "hub",
        }
        if ranges.matches(visit.header("if-none-match"), etag):
            await visit.begin(304, headers)
            await visit.end()
            return
        asked = visit.header("range") if visit.method == "GET" and visit.header("if-range") in ("", etag) else ""
        try:
            part = ranges.single(asked, file.size) if asked else None
        except ranges.RangeNotSatisfiable as error:
            body = fal_errors.error(error, visit.request_id)
            await visit.answer(body, {"content-range": f"bytes */{file.size}"}, error.status)
            return
        start, end = part or (0, file.size)
        headers |= {"content-type": file.content_type, "content-length": str(end - start)}
        headers |= {"content-disposition": filenames.disposition(file.name, file.content_type)}
        headers |= {"content-range": f"bytes {start}-{end - 1}/{file.size}"} if part else {}
        await visit.begin(206 if part else 200, headers)
        if visit.method != "HEAD":
            await self._stream(visit, opened, start, end)
        await visit.end()

    async def _stream(self, visit: Visit, opened: BinaryIO, start: int, end: int) -> None:
        opened.seek(start)
        while start < end:
            piece = await _read(opened, min(PIECE, end - start))
            if not piece:
                raise UnknownFile("the bytes of this file end early")  # the answer is cut visibly short
            start += len(piece)
            await visit.send(piece)

    def _caller(self, visit: Visit) -> str:
        """Who reads, "" for nobody known: a link needs no token."""
        try:
            return self._auth(visit).name
        except (Unauthorized, Forbidden):
            return ""

    async def _shown(self, visit: Visit, file: File) -> dict[str, Any]:
        return {
            "id": file.key,
            "object": "file",
            "filename": file.name,
            "bytes": file.size,
            "content_type": file.content_type,
            "sha256": file.sha256,
            "created_at": int(file.created_at),
            "expires_at": None if file.expires_at is None else int(file.expires_at),
            "request_id": file.request,
            "url": await asyncio.to_thread(self._files.url, file, base_url(visit, self._public)),
        }


async def _read(opened: BinaryIO, size: int) -> bytes:
    """The next bytes. A reading that is cancelled ends first: nobody may close the file under it."""
    reading = asyncio.ensure_future(asyncio.to_thread(opened.read, size))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        await asyncio.wait({reading})
        raise


def entries(door: FalFiles) -> list[Entry]:
    """The routes."""
    return [
        Entry("GET", f"{filelinks.PREFIX}*", door.read, fal_errors.error, public=True),
        Entry("GET", "/v1/files", door.listed, openai.error),
        Entry("GET", "/v1/files/*", door.entry, openai.error),
        Entry("DELETE", "/v1/files/*", door.remove, openai.error),
    ]
