"""Pictures in and out of an engine: a reference (data: or http(s) URL) becomes a decoded picture, a drawn one becomes a file.

Everything a caller sends is distrusted: sizes are capped before decoding, addresses are checked at every redirect, bytes are looked at
instead of labels. Colour conversion and resizing belong to the models.
"""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urljoin

from PIL import Image, UnidentifiedImageError

import sensorium.egress as egress
from sensorium.errors import AddressRefused, BadRequest, InvalidImage
from sensorium.wire import dataurl

if TYPE_CHECKING:
    import aiohttp

BYTE_CAP = 20 * 1024 * 1024
PIXEL_CAP = 40_000_000
FETCH_S = 10.0
REDIRECTS = 3
JPEG_QUALITY = 95
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_UNLABELLED = ("", "application/octet-stream", "binary/octet-stream")
_MOVED = (301, 302, 303, 307, 308)
# What Pillow's readers raise on damaged files, beside OSError (which includes its "unidentified").
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError, struct.error, zlib.error)
T = TypeVar("T")
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


async def load(
    url: str,
    where: str,
    allow: Collection[str] = (),
    *,
    see: Callable[[Image.Image], T],
    pixel_cap: int = PIXEL_CAP,
    enough: int | None = None,
    threads: Executor | None = None,
    resolve: egress.Resolve | None = None,
) -> T:
    """What `see` makes of a picture that is fetched or unpacked and decoded, in whatever colour mode it has.

    Unpacking, decoding and `see` run in one piece on `threads` (None: asyncio's own), so that no more decoded pictures are alive than
    there are threads. `where` names the part of the request for messages; `allow` is the operator's list of private "host:port";
    `pixel_cap` and `enough` are as in `decode`. Raises InvalidImage for what cannot be used and AddressRefused for what may not be
    called; both messages begin with `where`.
    """

    def seen(read: Callable[[], bytes]) -> T:
        return see(decode(read(), pixel_cap, enough))

    try:
        if dataurl.is_data_url(url):
            read = partial(_unpack, url)
        else:
            read = partial(bytes, await asyncio.wait_for(_fetch(url, allow, resolve), FETCH_S))
        return await asyncio.get_running_loop().run_in_executor(threads, seen, read)
    except TimeoutError:
        raise InvalidImage(f"{where}: the picture was not delivered within {FETCH_S:g} seconds", param=where) from None
    except AddressRefused as error:
        raise AddressRefused(f"{where}: {error.message}", param=where, hint=error.hint) from None
    except BadRequest as error:
        raise InvalidImage(f"{where}: {error.message}", param=where) from None


def decode(data: bytes, pixel_cap: int = PIXEL_CAP, enough: int | None = None) -> Image.Image:
    """Decode a still picture of at most `pixel_cap` pixels. Raises InvalidImage that says what is wrong with the bytes.

    With `enough`, a JPEG may come out 2, 4 or 8 times smaller, but with a longer side of at least that many pixels.
    """
    if not data:
        raise InvalidImage("the picture is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > pixel_cap:
            raise InvalidImage(f"the picture has {width} x {height} pixels; at most {pixel_cap} are decoded")
        if width < 1 or height < 1:
            raise InvalidImage(f"the picture is empty: {width} x {height} pixels")
        # A phone's JPEG may carry a preview as a second "frame" (MPO); the first one is the picture.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise InvalidImage(f"the picture is animated or has several pages ({image.format}); send a single frame")
        if enough is not None:
            longest = max(width, height)
            image.draft(None, (-(-width * enough // longest), -(-height * enough // longest)))
        image.load()
    except InvalidImage:
        raise
    except _BOMB:
        raise InvalidImage(f"the picture has far too many pixels; at most {pixel_cap} are decoded") from None
    except UnidentifiedImageError:
        raise InvalidImage(f"the bytes are {_described(data)}; send {', '.join(FORMATS)}") from None
    except _DAMAGE:
        raise InvalidImage("the picture is damaged or cut short") from None
    return image


def encode(image: Image.Image, kind: Literal["png", "jpeg"]) -> bytes:
    """An RGB picture as a PNG, or as a JPEG of quality 95 with full colour resolution."""
    out = io.BytesIO()
    if kind == "png":
        image.save(out, "PNG", compress_level=4)
    else:
        image.save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return out.getvalue()


def _unpack(url: str) -> bytes:
    found = dataurl.parse(url)
    if not found.media_type.startswith("image/") and found.media_type not in _UNLABELLED:
        raise InvalidImage(f"a data: URL of type {found.media_type} is not a picture; send image/png, image/jpeg or image/webp")
    return found.data


async def _fetch(url: str, allow: Collection[str], resolve: egress.Resolve | None) -> bytes:
    """Follow at most REDIRECTS redirects by hand; each address is checked, and only a checked one is connected to."""
    for _ in range(REDIRECTS + 1):
        target = egress.target(url)
        addresses = await egress.check(target.host, target.port, allow, resolve)
        found = await _get(target, addresses)
        if isinstance(found, bytes):
            return found
        try:
            url = urljoin(target.url, found)
        except ValueError:
            raise AddressRefused(f"{target.host} redirects to something that is not a proper URL") from None
    raise InvalidImage(f"the picture's address redirects more than {REDIRECTS} times")


async def _get(target: egress.Target, addresses: list[str]) -> bytes | str:
    """The body of one URL, or where it redirects to. The addresses are tried in order."""
    # Start-up cost: a quarter of a second and ten megabytes, for something that most engines never do.
    import aiohttp

    name = f"[{target.host}]" if ":" in target.host else target.host
    plain = target.port == egress.PORTS[target.scheme]
    headers = {"host": name if plain else f"{name}:{target.port}", "user-agent": "sensorium"}
    headers |= {"accept": "image/*", "accept-encoding": "identity"}
    path = target.url.partition("://")[2].partition("/")[2]
    failure = ""
    for address in addresses:
        url = f"{target.scheme}://{f'[{address}]' if ':' in address else address}:{target.port}/{path}"
        jar, connector = aiohttp.DummyCookieJar(), aiohttp.TCPConnector(force_close=True)
        session = aiohttp.ClientSession(connector=connector, cookie_jar=jar, auto_decompress=False)
        try:
            async with session, session.get(url, headers=headers, allow_redirects=False, server_hostname=target.host) as response:
                return await _answer(response, target.host)
        except aiohttp.ClientConnectorError as error:
            failure = type(error).__name__
        except aiohttp.ClientError as error:
            failure = type(error).__name__
            break
    raise InvalidImage(f"the picture could not be fetched from {target.host}: {failure}")


async def _answer(response: aiohttp.ClientResponse, host: str) -> bytes | str:
    if response.status in _MOVED and "location" in response.headers:
        return response.headers["location"]
    if response.status != 200:
        raise InvalidImage(f"{host} answered with HTTP {response.status} instead of a picture")
    if (response.content_length or 0) > BYTE_CAP:
        raise InvalidImage(f"the picture has {response.content_length} bytes; at most {BYTE_CAP} are fetched")
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > BYTE_CAP:
            raise InvalidImage(f"the picture has more than {BYTE_CAP} bytes, which is all that is fetched")
    return bytes(data)


def _described(data: bytes) -> str:
    """What unreadable bytes look like, for messages."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"%pdf"):
        return "a PDF document, not a picture"
    if b"<svg" in start:
        return "an SVG drawing, which is not read here"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, not a picture"
    if data[4:8] == b"ftyp":
        return "a video or a HEIC picture, which is not read here"
    return "not a picture of a known format, or cut short at its start"
