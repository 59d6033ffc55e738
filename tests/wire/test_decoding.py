"""Pictures made smaller: no more than it takes, upright, on white, never below the stated quality."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sensorium.errors import InvalidImage
from sensorium.wire import decoding


def noisy(width: int, height: int) -> Image.Image:
    """A picture that no file format can make much smaller."""
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8))


def png(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def opened(made: decoding.Shrunk) -> Image.Image:
    image = Image.open(io.BytesIO(made.data))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", made.after)
    return image


def test_quality_goes_first_and_sides_only_then() -> None:
    data = png(noisy(1200, 900))
    mild = decoding.shrink(data, 700_000)
    strong = decoding.shrink(data, 135_000)
    assert (mild.after, strong.before) == ((1200, 900), (1200, 900))
    assert opened(strong).width < 1200
    assert max(strong.after) >= decoding.LEAST_SIDE
    assert strong.after[0] / strong.after[1] == pytest.approx(4 / 3, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(10_000, 200_000))
def test_it_fits_or_says_that_it_cannot(width: int, height: int, most: int) -> None:
    try:
        made = decoding.shrink(png(noisy(width, height)), most)
    except InvalidImage as error:
        assert str(most) in error.message
        return
    assert len(made.data) <= most
    assert made.quality >= decoding.LEAST_QUALITY
    assert max(made.after) >= min(max(width, height), decoding.LEAST_SIDE)


def test_a_transparent_picture_is_laid_on_white() -> None:
    made = decoding.shrink(png(Image.new("RGBA", (64, 64), (255, 0, 0, 0))), 50_000)
    assert min(opened(made).getpixel((32, 32))) > 250  # type: ignore[type-var, arg-type]


def test_a_picture_that_lies_on_its_side_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    made = decoding.shrink(png(noisy(80, 40), exif=exif), 50_000)
    assert opened(made).size == (40, 80)


def test_sixteen_bits_of_grey_keep_their_middle() -> None:
    made = decoding.shrink(png(Image.fromarray(np.full((32, 32), 32_768, np.uint16))), 50_000)
    assert all(abs(value - 128) < 3 for value in opened(made).getpixel((16, 16)))  # type: ignore[union-attr]


def test_the_words_tell_what_was_done() -> None:
    assert str(decoding.Shrunk(b"", (1200, 900), (800, 600), 70)) == "1200x900 -> 800x600, JPEG of quality 70"
    assert str(decoding.Shrunk(b"", (8, 6), (8, 6), 90)) == "8x6, JPEG of quality 90"
