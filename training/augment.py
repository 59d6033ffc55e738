"""Changes to pictures that real callers cause: recompression, resizing, cropping with padding, shift, blur, brightness."""

from __future__ import annotations

import io
import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter


def augment(picture: NDArray[np.uint8], rng: random.Random) -> tuple[NDArray[np.uint8], bool]:
    """(the changed picture of the same size, whether objects kept their place to within a pixel)."""
    image = Image.fromarray(picture)
    size = image.width
    choice = rng.randrange(6)
    if choice == 0:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(55, 95))
        image = Image.open(buffer).convert("RGB")
    elif choice == 1:
        larger = rng.randint(100, 300)
        method = rng.choice((Image.Resampling.BILINEAR, Image.Resampling.LANCZOS, Image.Resampling.BICUBIC))
        image = image.resize((larger, larger), method).resize((size, size), Image.Resampling.LANCZOS)
    elif choice == 2:
        return shift(picture, rng.randint(-2, 2), rng.randint(-2, 2)), False
    elif choice == 3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
    elif choice == 4:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.85, 1.12))
    else:
        return letterbox(picture, rng.randint(1, 10), rng.randint(1, 4)), False
    return np.asarray(image), True


def shift(picture: NDArray[np.uint8], dx: int, dy: int) -> NDArray[np.uint8]:
    """Moved by (dx, dy) pixels, edges replicated."""
    height, width = picture.shape[:2]
    rows = np.clip(np.arange(height) - dy, 0, height - 1)
    columns = np.clip(np.arange(width) - dx, 0, width - 1)
    return picture[rows][:, columns]


def letterbox(picture: NDArray[np.uint8], top: int, bottom: int) -> NDArray[np.uint8]:
    """Rows cut off, then centred on a square of the border's mean colour: what `fit: square` makes of a wide picture."""
    kept = picture[top : picture.shape[0] - bottom]
    border = np.concatenate([kept[0], kept[-1], kept[:, 0], kept[:, -1]])
    out = np.empty_like(picture)
    out[:] = border.mean(0).round().astype(np.uint8)
    start = (picture.shape[0] - kept.shape[0]) // 2
    out[start : start + kept.shape[0]] = kept
    return out
