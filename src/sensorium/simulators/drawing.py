"""Placeholder pictures: drawn from a prompt and a seed, the same for the same two, different for others. No model is involved."""

from __future__ import annotations

import hashlib
import io
import random

from PIL import Image, ImageChops, ImageDraw

JPEG_QUALITY = 90
GRAIN, GRAIN_STRENGTH = 4, 0.12
SHAPES = (3, 7)


def picture(width: int, height: int, prompt: str, seed: int) -> Image.Image:
    """An RGB picture of exactly this size: two colours that blend into each other, some shapes, and grain like a photograph's."""
    chance = random.Random(hashlib.sha256(f"{seed}\0{prompt}".encode("utf-8", "replace")).digest())
    corners = Image.frombytes("RGB", (2, 2), chance.randbytes(12))
    image = corners.resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(chance.randint(*SHAPES)):
        x, y = chance.randrange(width), chance.randrange(height)
        across, down = chance.randint(width // 12, width // 3), chance.randint(height // 12, height // 3)
        colour = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
        draw = chance.choice((pen.ellipse, pen.rectangle))
        draw((x - across // 2, y - down // 2, x + across // 2, y + down // 2), fill=colour)
    small = (width // GRAIN, height // GRAIN)
    grain = Image.frombytes("L", small, chance.randbytes(small[0] * small[1])).resize((width, height))
    return Image.blend(image, grain.convert("RGB"), GRAIN_STRENGTH)


def black(width: int, height: int) -> Image.Image:
    """What a content filter leaves."""
    return Image.new("RGB", (width, height))


def shifted(image: Image.Image, pixels: int) -> Image.Image:
    """The picture moved to the right by `pixels`, around its edge: the next frame of a video."""
    return ImageChops.offset(image, pixels, 0)


def jpeg(image: Image.Image, small: bool = False) -> bytes:
    """A JPEG file; `small` spends time on making it short."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=JPEG_QUALITY, optimize=small)
    return out.getvalue()
