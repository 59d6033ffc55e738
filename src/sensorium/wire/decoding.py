"""Decode a picture that a caller sent, make one smaller. Blocking: call it off the event loop.

What a caller sends is distrusted: sizes are capped before decoding, bytes are looked at instead of labels.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from sensorium.errors import InvalidImage

PIXEL_CAP = 40_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
QUALITIES = (90, 80, 70)
LEAST_QUALITY, LEAST_SIDE = QUALITIES[-1], 512
# What Pillow's readers raise on damaged files, beside OSError (which includes its "unidentified").
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError, struct.error, zlib.error)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


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


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A picture made smaller: a JPEG, its sides before and after, and the quality that it was written with."""

    data: bytes
    before: tuple[int, int]
    after: tuple[int, int]
    quality: int

    def __str__(self) -> str:
        sides = " -> ".join(f"{width}x{height}" for width, height in dict.fromkeys((self.before, self.after)))
        return f"{sides}, JPEG of quality {self.quality}"


def shrink(data: bytes, most: int) -> Shrunk:
    """The picture as a JPEG of at most `most` bytes: first of lower quality, then with shorter sides, as little as it takes.

    Transparent parts become white. Quality stays at LEAST_QUALITY or above, the longer side at LEAST_SIDE pixels or above, unless the
    picture has fewer. Raises InvalidImage for what cannot be read, and for what does not fit even so.
    """
    whole = image = _flat(decode(data))
    while True:
        for quality in QUALITIES:
            out = io.BytesIO()
            image.save(out, "JPEG", quality=quality)
            if out.tell() <= most:
                return Shrunk(out.getvalue(), whole.size, image.size, quality)
        longest = max(image.size)
        if longest <= LEAST_SIDE:
            raise InvalidImage(
                f"the picture does not fit into {most} bytes, not even as a JPEG of quality {LEAST_QUALITY} "
                f"with {longest} pixels on its longer side; send a smaller one"
            )
        scale = max(LEAST_SIDE, min(0.9, math.sqrt(most / out.tell())) * longest) / max(whole.size)
        image = whole.resize((max(1, round(whole.width * scale)), max(1, round(whole.height * scale))), reducing_gap=2)


def _flat(image: Image.Image) -> Image.Image:
    """Upright, in RGB, on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would cut off at 255
        image = image.convert("I").point(lambda grey: grey / 256).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")


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
