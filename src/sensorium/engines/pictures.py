"""Pictures in and out of an engine: a reference (data: or http(s) URL) becomes a decoded picture, a drawn one becomes a file.

Everything a caller sends is distrusted: sizes are capped before decoding, addresses are checked at every redirect, bytes are looked at
instead of labels. Colour conversion and resizing belong to the models.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from functools import partial
from typing import Literal, TypeVar

from PIL import Image

from sensorium import egress, fetch
from sensorium.errors import AddressRefused, BadRequest, InvalidImage
from sensorium.wire import dataurl, decoding, picture

JPEG_QUALITY = 95
T = TypeVar("T")


async def load(
    url: str,
    where: str,
    allow: Collection[str] = (),
    *,
    see: Callable[[Image.Image], T],
    pixel_cap: int = decoding.PIXEL_CAP,
    enough: int | None = None,
    threads: Executor | None = None,
    resolve: egress.Resolve | None = None,
) -> T:
    """What `see` makes of a picture that is fetched or unpacked and decoded, in whatever colour mode it has.

    Unpacking, decoding and `see` run in one piece on `threads` (None: asyncio's own), so that no more decoded pictures are alive than
    there are threads. `where` names the part of the request for messages; `allow` is the operator's list of private "host:port";
    `pixel_cap` and `enough` are as in `decoding.decode`. Raises InvalidImage for what cannot be used and AddressRefused for what may not be
    called; both messages begin with `where`.
    """

    def seen(read: Callable[[], bytes]) -> T:
        return see(decoding.decode(read(), pixel_cap, enough))

    try:
        inside = dataurl.is_data_url(url)
        read = partial(picture.unpack, url) if inside else partial(bytes, await fetch.fetch(url, allow, resolve))
        return await asyncio.get_running_loop().run_in_executor(threads, seen, read)
    except AddressRefused as error:
        raise AddressRefused(f"{where}: {error.message}", param=where, hint=error.hint) from None
    except BadRequest as error:
        raise InvalidImage(f"{where}: {error.message}", param=where) from None


def encode(image: Image.Image, kind: Literal["png", "jpeg"]) -> bytes:
    """An RGB picture as a PNG, or as a JPEG of quality 95 with full colour resolution."""
    out = io.BytesIO()
    if kind == "png":
        image.save(out, "PNG", compress_level=4)
    else:
        image.save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return out.getvalue()
