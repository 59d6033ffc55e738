"""Pictures to pixels: any PIL mode to RGB, the checkpoint's resizing rule, normalisation.

Large pictures are worked on in tiles, so that beside the picture itself only its reduced form takes memory. It does not fetch or decode
files and does not know the model. Orientation tags are not applied, as in the reference.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sensorium.engines.diffusion_vlm.config import SideConfig, VLMConfig
from sensorium.errors import InvalidImage

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
CUBIC = -0.75
SIXTEEN_TO_EIGHT_BITS = 257.0
TILE_PIXELS = 1 << 20
STRIPE_PIXELS = 1 << 18  # resized at a time: what stays in a core's cache
# A picture is averaged down to this many times the wanted side at least, and resized with the real filter from there.
REDUCING_GAP = 3


def see(picture: Image.Image, config: VLMConfig, side: SideConfig) -> FloatArray:
    """Any PIL picture -> normalised pixels for the tower. Raises InvalidImage as `to_rgb` does."""
    return preprocess(taken_in(picture, side), config, side)


def taken_in(picture: Image.Image, side: SideConfig) -> ByteArray:
    """Any PIL picture as what all of its pixels follow from: RGB, reduced where a checkpoint's rule allows that. Raises InvalidImage."""
    factor = reduction(picture.size, side)
    rgb = to_rgb(picture, factor)
    return fit_square(rgb, side.longest_side, (picture.height / factor, picture.width / factor)) if factor > 1 else rgb


def reduction(size: tuple[int, int], side: SideConfig) -> int:
    """By what whole factor a picture may be averaged down first: 1 where the checkpoint's rule samples the picture itself."""
    return max(1, max(size) // (REDUCING_GAP * side.longest_side)) if side.fit == "square" else 1


def enough(side: SideConfig) -> int | None:
    """The length of the longer side beyond which a picture has no more to tell; None where every pixel may count."""
    return REDUCING_GAP * side.longest_side if side.fit == "square" else None


def preprocess(picture: ByteArray, config: VLMConfig, side: SideConfig) -> FloatArray:
    """RGB [height, width, 3] -> normalised pixels [3, rows * cell, columns * cell], ready for the tower."""
    if side.fit == "square":
        picture = fit_square(picture, side.longest_side)
    rows, columns = grid(picture.shape[0], picture.shape[1], config.cell, side.longest_side)
    height, width = rows * config.cell, columns * config.cell
    if picture.shape[:2] == (height, width):
        return np.stack([NORMALISED[channel][picture[..., channel]] for channel in range(3)])
    return np.ascontiguousarray(normalise(resize_cubic(picture, height, width)).transpose(2, 0, 1))


def normalise(values: FloatArray) -> FloatArray:
    """0..255 [..., 3] -> what the tower was trained on, in place."""
    values *= (1 / (255 * STD)).astype(np.float32)
    values += (-MEAN / STD).astype(np.float32)
    return values


# Of every byte, by channel: a picture that need not be resized is looked up.
NORMALISED = normalise(np.repeat(np.arange(256, dtype=np.float32)[:, None], 3, axis=1)).T.copy()


def grid(height: int, width: int, cell: int, longest_side: int) -> tuple[int, int]:
    """Rows and columns of image tokens: the longer side limited to `longest_side`, each side rounded up to whole cells."""
    ratio = max(height, width) / longest_side
    if ratio > 1:
        height, width = (max(1, round(length / ratio)) for length in (height, width))
    return (height - 1) // cell + 1, (width - 1) // cell + 1


def to_rgb(picture: Image.Image, factor: int = 1) -> ByteArray:
    """Any PIL picture as RGB bytes [height, width, 3]: alpha over white, 16-bit grey scaled to 8, palettes and CMYK converted.

    With a `factor`, squares of so many pixels each way are averaged, after the conversion. Raises InvalidImage for an empty picture and
    for modes without a defined conversion.
    """
    width, height = picture.size
    if 0 in picture.size:
        raise InvalidImage(f"the picture is empty: {width} x {height} pixels")
    picture.load()
    if factor == 1 and picture.mode == "RGB" and not picture.has_transparency_data:
        return np.asarray(picture)
    rgb = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    for box in tiles(width, height, factor):
        tile = _converted(picture.crop(box))
        if factor > 1:
            tile = np.asarray(Image.fromarray(tile).reduce(factor))
        top, left = box[1] // factor, box[0] // factor
        rgb[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return rgb


def tiles(width: int, height: int, factor: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of about TILE_PIXELS that cover a picture, with corners at multiples of `factor`."""

    def whole(length: int) -> int:
        return -(-max(1, length) // factor) * factor

    across = whole(min(width, TILE_PIXELS // min(height, factor)))
    down = whole(min(height, TILE_PIXELS // min(width, across)))
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield left, top, min(left + across, width), min(top + down, height)


def _converted(picture: Image.Image) -> ByteArray:
    """One tile as RGB bytes."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _deep_grey(picture)
    try:
        if picture.has_transparency_data:
            return _over_white(np.asarray(picture.convert("RGBA")))
        return np.asarray(picture.convert("RGB"))
    except ValueError as error:
        raise InvalidImage(f"a picture of mode {picture.mode} cannot be converted to RGB") from error


def _over_white(rgba: ByteArray) -> ByteArray:
    """Blend over white with integer rounding to nearest; 255 * 255 + 127 still fits into 16 bits."""
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    colour *= alpha
    colour += 255 * (255 - alpha) + 127
    colour //= 255
    return colour.astype(np.uint8)


def _deep_grey(picture: Image.Image) -> ByteArray:
    """16- and 32-bit grey: values count from 0 to 65535; floats from 0 to 255. A transparent grey value becomes white."""
    values = np.asarray(picture)
    scale = 1.0 if picture.mode == "F" else SIXTEEN_TO_EIGHT_BITS
    grey = np.clip(np.rint(np.nan_to_num(values.astype(np.float64)) / scale), 0, 255).astype(np.uint8)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return np.repeat(grey[..., None], 3, axis=2)


def fit_square(picture: ByteArray, size: int, extent: tuple[float, float] | None = None) -> ByteArray:
    """Scale the longer side to `size` (Lanczos) and centre on a square filled with the mean colour of the border pixels.

    `extent` is the height and width that count, where the last row and column of a reduced picture are not whole ones. A picture that
    has that size already comes back as it is.
    """
    if picture.shape[:2] == (size, size):
        return picture
    tall, wide = extent or picture.shape[:2]
    ratio = size / max(tall, wide)
    height, width = (min(size, max(1, round(length * ratio))) for length in (tall, wide))
    counted = (0.0, 0.0, max(1.0, wide), max(1.0, tall))
    scaled = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS, counted))
    if height == width == size:
        return scaled
    border = np.concatenate([scaled[0], scaled[-1], scaled[1:-1, 0], scaled[1:-1, -1]])
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = np.rint(border.mean(axis=0))
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = scaled
    return canvas


def resize_cubic(picture: ByteArray | FloatArray, height: int, width: int) -> FloatArray:
    """Separable cubic interpolation of [h, w, channels]: a = -0.75, half-pixel centres, replicated border, no antialias.

    Equals OpenCV's INTER_CUBIC on float32 (Keys 1981 with OpenCV's coefficient). The result is always new memory.
    """
    out = np.empty((height, width, picture.shape[2]), np.float32)
    stripe = max(1, STRIPE_PIXELS // picture.shape[1])
    for top in range(0, height, stripe):
        tall = _resize_first_axis(picture, height, slice(top, top + stripe))
        out[top : top + stripe] = _resize_first_axis(tall.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return out


def _resize_first_axis(values: ByteArray | FloatArray, size: int, part: slice = slice(None)) -> FloatArray:
    """The rows `part` of `values` resized to `size` rows."""
    if len(values) == size:
        return values[part].astype(np.float32, copy=False)
    centre = ((np.arange(size) + 0.5) * (len(values) / size) - 0.5)[part]
    left = np.floor(centre).astype(int)
    out = np.zeros((len(centre), *values.shape[1:]), np.float32)
    for offset in (-1, 0, 1, 2):
        weight = _cubic_weight(np.abs(centre - (left + offset))).astype(np.float32)
        out += weight[:, None, None] * values[np.clip(left + offset, 0, len(values) - 1)]
    return out


def _cubic_weight(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
