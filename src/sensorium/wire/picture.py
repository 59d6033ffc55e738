"""Pictures as bytes: tell the file format, change it, unpack a data: URL; nothing is decoded but to change the format."""

from __future__ import annotations

import io

from sensorium.errors import InvalidImage, UpstreamFailed
from sensorium.wire import dataurl

FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG"}
JPEG_QUALITY = 95
_UNLABELLED = ("", "application/octet-stream", "binary/octet-stream")
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)


def media_type(start: bytes) -> str | None:
    """The media type of a picture by its first bytes (twelve are enough), or None."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    return next((media for magic, media in _MAGIC if start.startswith(magic)), None)


def convert(raw: bytes, media: str) -> bytes:
    """`raw` as a file of type `media` (a key of FORMATS); the same bytes when it is one already. Blocking; call it off the event loop.

    Raises UpstreamFailed when the bytes are no picture.
    """
    # Start-up cost: a tenth of a second, which callers that only look at magic bytes should not pay.
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as image:
            if image.format == FORMATS[media]:
                return raw
            out = io.BytesIO()
            image.convert("RGB").save(out, FORMATS[media], quality=JPEG_QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UpstreamFailed(f"the model answered with a picture that cannot be read: {error}") from None
    return out.getvalue()


def sides(raw: bytes) -> tuple[int, int]:
    """Width and height of a picture, in pixels; nothing is decoded. Raises UpstreamFailed when the bytes are no picture."""
    # Start-up cost: see `convert`.
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UpstreamFailed(f"the model answered with a picture that cannot be read: {error}") from None


def unpack(url: str) -> bytes:
    """The bytes in a data: URL. Raises BadRequest where it is damaged or declares to be no picture."""
    found = dataurl.parse(url)
    if not found.media_type.startswith("image/") and found.media_type not in _UNLABELLED:
        raise InvalidImage(f"a data: URL of type {found.media_type} is not a picture; send image/png, image/jpeg or image/webp")
    return found.data
