"""Pictures as bytes: change the file format, nothing else. Blocking; call it off the event loop."""

from __future__ import annotations

import io

from PIL import Image

from sensorium.errors import UpstreamFailed

FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG"}
JPEG_QUALITY = 95


def convert(raw: bytes, media: str) -> bytes:
    """`raw` as a file of type `media` (a key of FORMATS); the same bytes when it is one already.

    Raises UpstreamFailed when the bytes are no picture.
    """
    try:
        with Image.open(io.BytesIO(raw)) as image:
            if image.format == FORMATS[media]:
                return raw
            out = io.BytesIO()
            image.convert("RGB").save(out, FORMATS[media], quality=JPEG_QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UpstreamFailed(f"the model answered with a picture that cannot be read: {error}") from None
    return out.getvalue()
