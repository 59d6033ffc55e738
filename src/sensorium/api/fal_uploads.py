"""fal's storage protocol, the half that stores: upload tickets and tokens, files that come whole or in parts.

The two official clients speak it in two dialects: JavaScript reads part numbers and etags from JSON, Python from headers. Every answer has
both (fal's API page "Storage"; measured against both clients).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from sensorium.api.auth import Auth
from sensorium.api.base_url import base_url
from sensorium.api.router import Entry
from sensorium.api.visit import Visit
from sensorium.errors import BadRequest, Forbidden, NotFound, Unauthorized
from sensorium.store.files import File
from sensorium.store.objects import Incoming
from sensorium.store.uploads import PIECE, BadParts, Part, Uploads
from sensorium.wire import fal_errors, filelinks, filenames, jsonbody, lifecycle
from sensorium.wire.filelinks import Ticket
from sensorium.wire.lifecycle import Lifecycle

T = TypeVar("T")
SMALL_BODY: Final = 2 * 1024 * 1024  # bytes; a list of ten thousand parts fits
NAME, LIFECYCLE, PREFERENCE = "x-fal-file-name", "x-fal-object-lifecycle", "x-fal-object-lifecycle-preference"
SIZE_HINT: Final = "send a smaller file; the cap is files.max_mb"
MULTIPART: Final = "/multipart/"


class FalUploads:
    """Handlers of /fal/rest/storage, /fal/cdn/upload and of what is sent to /fal/cdn/files. `public_url` is the operator's, for links."""

    def __init__(self, uploads: Uploads, auth: Auth, public_url: str | None = None) -> None:
        self._uploads, self._auth, self._public = uploads, auth, public_url

    async def initiate(self, visit: Visit) -> None:
        """POST …/upload/initiate and …/initiate-multipart: where to send a file, and its link, whatever storage type is asked for."""
        found = jsonbody.members(await visit.body(SMALL_BODY))
        media = filenames.content_type(jsonbody.text(found, "content_type") or "")
        name = filenames.cleaned(jsonbody.text(found, "file_name") or "", media)
        _, text, link = await self._begun(visit, visit.caller, media, name)
        upload_url = f"{base_url(visit, self._public)}{filelinks.TICKETS}{text}"
        await visit.answer(msgspec.json.encode({"upload_url": upload_url, "file_url": link}))

    async def token(self, visit: Visit) -> None:
        """POST /fal/rest/storage/auth/token: a token for uploads of this caller."""
        await visit.body(SMALL_BODY)
        token, expires = await asyncio.to_thread(self._uploads.token, visit.caller)
        told = {
            "token": token,
            "token_type": "Bearer",
            "base_url": f"{base_url(visit, self._public)}/fal/cdn",
            "expires_at": datetime.fromtimestamp(expires, UTC).isoformat(),  # Python 3.10 reads no Z
        }
        await visit.answer(msgspec.json.encode(told))

    async def put(self, visit: Visit) -> None:
        """PUT /fal/cdn/upload/TICKET: a whole file; …/TICKET/N: a part of it."""
        text, _, tail = visit.params[0].partition("/")
        ticket = await asyncio.to_thread(self._uploads.opened, text)
        if tail:
            await self._part(visit, ticket, tail)
        else:
            await self._stored(visit, ticket)

    async def complete(self, visit: Visit) -> None:
        """POST /fal/cdn/upload/TICKET/complete: no more parts."""
        text, _, tail = visit.params[0].partition("/")
        if tail != "complete":
            raise NotFound("an upload is ended with POST …/complete; its bytes are sent with PUT")
        await self._completed(visit, await asyncio.to_thread(self._uploads.opened, text))

    async def upload(self, visit: Visit) -> None:
        """POST /fal/cdn/files/upload: a whole file, with an upload token or a key of the hub."""
        owner = await self._owner(visit)
        media = filenames.content_type(visit.header("content-type"))
        ticket, _, _ = await self._begun(visit, owner, media, _named(visit, media))
        await self._stored(visit, ticket)

    async def multipart(self, visit: Visit) -> None:
        """POST /fal/cdn/files/upload/multipart: begin an upload in parts, which go below the link of the file to be."""
        owner = await self._owner(visit)
        await visit.body(SMALL_BODY)
        media = filenames.content_type(visit.header("content-type"))
        _, text, link = await self._begun(visit, owner, media, _named(visit, media))
        await visit.answer(msgspec.json.encode({"access_url": link, "uploadId": text}))

    async def put_below(self, visit: Visit) -> None:
        """PUT LINK/multipart/UPLOAD/N: a part."""
        ticket, tail = await self._below(visit)
        await self._part(visit, ticket, tail)

    async def complete_below(self, visit: Visit) -> None:
        """POST LINK/multipart/UPLOAD/complete: no more parts."""
        ticket, tail = await self._below(visit)
        if tail != "complete":
            raise NotFound("an upload is ended with POST …/complete; its parts are sent with PUT")
        await self._completed(visit, ticket)

    async def _begun(self, visit: Visit, owner: str, media: str, name: str) -> tuple[Ticket, str, str]:
        lives, base = _lifecycle(visit), base_url(visit, self._public)

        def begun() -> tuple[Ticket, str, str]:
            ticket, text = self._uploads.ticket(owner, media, name, lives)
            return ticket, text, self._uploads.link(ticket, base)

        return await asyncio.to_thread(begun)

    async def _owner(self, visit: Visit) -> str:
        scheme, _, token = visit.header("authorization").partition(" ")
        if scheme.lower() == "bearer" and filelinks.looks_like_token(token.strip()):
            owner = await asyncio.to_thread(self._uploads.token_owner, token.strip())
            if not self._auth.knows(owner):
                raise Unauthorized("this upload token's caller is not known any more", code="upload_token_refused")
            return owner
        return self._auth(visit).name

    async def _below(self, visit: Visit) -> tuple[Ticket, str]:
        """The ticket and what follows it, of a path below the link of a file to be."""
        link = filelinks.link(visit.params[0])
        if link is None or not link.rest.startswith(MULTIPART):
            raise NotFound("files are read here; they are sent to /fal/cdn/files/upload, or to an upload URL")
        text, _, tail = link.rest.removeprefix(MULTIPART).partition("/")

        def opened() -> Ticket:
            self._uploads.files.check(link)
            return self._uploads.opened(text)

        ticket = await asyncio.to_thread(opened)
        if ticket.key != link.key:
            raise Forbidden("this upload id belongs to another file", code="ticket_refused")
        return ticket, tail

    async def _stored(self, visit: Visit, ticket: Ticket) -> None:
        incoming = await self._received(visit, ticket)
        await self._tell(visit, await _ended(incoming, lambda: self._uploads.finish(ticket, incoming)))

    async def _part(self, visit: Visit, ticket: Ticket, tail: str) -> None:
        if not tail.isascii() or not tail.isdecimal() or len(tail) > 6:
            raise BadParts(f"{tail[:40]!r} is no number of a part; parts are numbered from 1 on", hint="PUT …/1, …/2 and so on")
        incoming = await self._received(visit, ticket)
        part = await _ended(incoming, lambda: self._uploads.finish_part(ticket, int(tail), incoming))
        told = {"partNumber": part.number, "etag": f'"{part.etag}"'}
        await visit.answer(msgspec.json.encode(told), {"etag": f'"{part.etag}"'})

    async def _completed(self, visit: Visit, ticket: Ticket) -> None:
        named = _parts(jsonbody.members(await visit.body(SMALL_BODY)))
        await self._tell(visit, await asyncio.to_thread(self._uploads.complete, ticket, named))

    async def _received(self, visit: Visit, ticket: Ticket) -> Incoming:
        """The body on disk, piece by piece; dropped when it does not arrive whole."""
        incoming = await asyncio.to_thread(self._uploads.begin, ticket)
        try:
            held = bytearray()
            async with aclosing(visit.parts(ticket.most, SIZE_HINT)) as parts:
                async for part in parts:
                    held += part
                    if len(held) >= PIECE:
                        await asyncio.to_thread(incoming.write, held)
                        held = bytearray()
            await asyncio.to_thread(incoming.write, held)
        except BaseException:
            incoming.drop()
            raise
        return incoming

    async def _tell(self, visit: Visit, file: File) -> None:
        link = await asyncio.to_thread(self._uploads.files.url, file, base_url(visit, self._public))
        told = {
            "access_url": link,
            "url": link,
            "file_name": file.name,
            "content_type": file.content_type,
            "file_size": file.size,
            "etag": f'"{file.sha256}"',
        }
        await visit.answer(msgspec.json.encode(told), {"etag": f'"{file.sha256}"'})


def entries(door: FalUploads) -> list[Entry]:
    """The routes. Those with a ticket or an upload token are public to the router: the right is in the ticket or the token."""
    storage, files = "/fal/rest/storage", filelinks.PREFIX
    open_to_all = [
        ("PUT", f"{filelinks.TICKETS}*", door.put),
        ("POST", f"{filelinks.TICKETS}*", door.complete),
        ("POST", f"{files}upload", door.upload),
        ("POST", f"{files}upload/multipart", door.multipart),
        ("PUT", f"{files}*", door.put_below),
        ("POST", f"{files}*", door.complete_below),
    ]
    asked = [
        ("POST", f"{storage}/upload/initiate", door.initiate),
        ("POST", f"{storage}/upload/initiate-multipart", door.initiate),
        ("POST", f"{storage}/auth/token", door.token),
    ]
    render = fal_errors.error
    return [Entry(*one, render) for one in asked] + [Entry(*one, render, public=True) for one in open_to_all]


async def _ended(incoming: Incoming, work: Callable[[], T]) -> T:
    """The result of `work`, which keeps what has arrived. If the caller leaves before it has begun, nobody will."""
    try:
        return await asyncio.to_thread(work)
    except asyncio.CancelledError:
        incoming.drop()
        raise


def _named(visit: Visit, media: str) -> str:
    return filenames.cleaned(filenames.from_header(visit.header(NAME)), media)


def _lifecycle(visit: Visit) -> Lifecycle:
    """Python's client sends the same in both headers; where they differ, the one for uploads counts."""
    return lifecycle.parse(visit.header(LIFECYCLE) or visit.header(PREFERENCE))


def _parts(found: jsonbody.Members) -> list[Part]:
    return [_part(one, f"parts[{place}]") for place, one in enumerate(jsonbody.objects(found, "parts", BadRequest))]


def _part(one: dict[str, Any], where: str) -> Part:
    number, etag = one.get("partNumber"), one.get("etag")
    if isinstance(number, bool) or not isinstance(number, int) or not isinstance(etag, str):
        raise BadRequest(f"{where} must be an object with partNumber, an integer, and etag, a string", param=where)
    return Part(number, etag.strip().removeprefix("W/").strip('"'))
