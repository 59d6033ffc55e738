"""Pictures of every kind become the right pixels; the official grid sizes."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sensorium.engines.diffusion_vlm import image
from sensorium.engines.diffusion_vlm.config import SideConfig, VLMConfig, read_config
from sensorium.engines.diffusion_vlm.image import (
    MEAN,
    STD,
    enough,
    fit_square,
    grid,
    preprocess,
    reduction,
    resize_cubic,
    see,
    tiles,
    to_rgb,
)
from sensorium.errors import InvalidImage
from tests.engines.diffusion_vlm.checkpoints import write_checkpoint

OFFICIAL = 28, 1400


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> VLMConfig:
    return read_config(write_checkpoint(tmp_path_factory.mktemp("tiny")))


def through_file(picture: Image.Image, kind: str = "png", **how: object) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return Image.open(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize(
    ("width", "height", "wanted"),
    [
        (300, 200, (8, 11)),
        (2800, 1400, (25, 50)),
        (1400, 1400, (50, 50)),
        (1, 1, (1, 1)),
        (1, 1400, (50, 1)),
        (1, 2800, (50, 1)),
        (28, 29, (2, 1)),
    ],
)
def test_the_official_grid(width: int, height: int, wanted: tuple[int, int]) -> None:
    assert grid(height, width, *OFFICIAL) == wanted


def test_halves_round_to_even() -> None:
    assert grid(2800, 113, *OFFICIAL) == (50, 2)  # 113 / 2 = 56.5 -> 56 -> 2 cells, where rounding up would give 3
    assert grid(2800, 115, *OFFICIAL) == (50, 3)  # 57.5 -> 58


@pytest.mark.parametrize("size", [(1, 1), (1, 1400), (1400, 1), (3, 2000), (97, 61)])
def test_odd_sizes_come_out_in_whole_cells(config: VLMConfig, size: tuple[int, int]) -> None:
    pixels = preprocess(to_rgb(Image.new("RGB", size, (255, 0, 128))), config, SideConfig())
    assert pixels.dtype == np.float32 and pixels.flags.c_contiguous
    assert pixels.shape[0] == 3 and pixels.shape[1] % config.cell == pixels.shape[2] % config.cell == 0
    wanted = (np.array([255, 0, 128]) / 255 - MEAN) / STD
    assert np.abs(pixels - wanted[:, None, None]).max() < 1e-5


def test_a_picture_of_the_right_size_is_only_normalised(config: VLMConfig) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)
    pixels = preprocess(picture, config, SideConfig())
    assert np.abs(pixels - ((picture / 255 - MEAN) / STD).transpose(2, 0, 1)).max() < 1e-6


def test_alpha_is_blended_over_white() -> None:
    picture = Image.new("RGBA", (3, 1))
    for place, colour in enumerate([(200, 0, 0, 0), (200, 100, 0, 128), (10, 20, 30, 255)]):
        picture.putpixel((place, 0), colour)
    assert to_rgb(picture)[0].tolist() == [[255, 255, 255], [227, 177, 127], [10, 20, 30]]
    assert to_rgb(through_file(picture)).tolist() == to_rgb(picture).tolist()


def test_grey_alpha_and_transparent_palettes() -> None:
    grey = Image.new("LA", (2, 1), (40, 255))
    grey.putpixel((1, 0), (40, 0))
    assert to_rgb(grey)[0].tolist() == [[40] * 3, [255] * 3]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([200, 0, 0, 0, 90, 0])
    palette.putpixel((1, 0), 1)
    opaque, clear = through_file(palette), through_file(palette, transparency=0)
    assert to_rgb(opaque)[0].tolist() == [[200, 0, 0], [0, 90, 0]]
    assert to_rgb(clear)[0].tolist() == [[255, 255, 255], [0, 90, 0]]


def test_sixteen_bits_are_scaled_and_not_cut() -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    picture = through_file(Image.fromarray(values))
    assert picture.mode.startswith("I")
    assert to_rgb(picture)[0, :, 0].tolist() == [0, 1, 128, 255]
    picture.info["transparency"] = 32768
    assert to_rgb(picture)[0, :, 0].tolist() == [0, 1, 255, 255]
    assert to_rgb(Image.fromarray(values.astype(np.int32)))[0, :, 1].tolist() == [0, 1, 128, 255]


def test_float_grey_counts_to_255() -> None:
    values = np.array([[-5.0, 0.4, 127.6, 300.0, np.nan]], np.float32)
    assert to_rgb(Image.fromarray(values))[0, :, 2].tolist() == [0, 0, 128, 255, 0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "PA", "RGBX", "I", "I;16", "I;16B", "F"])
def test_every_mode_becomes_rgb_bytes(mode: str) -> None:
    rgb = to_rgb(Image.new(mode, (5, 4)))
    assert rgb.shape == (4, 5, 3) and rgb.dtype == np.uint8


def photograph(width: int, height: int) -> Image.Image:
    """Smooth shades, a hard edge, and half of it transparent."""
    down, across = np.mgrid[0:height, 0:width]
    values = np.stack([across * 255 // width, down * 255 // height, 255 * (across > width // 3), 255 - down * 200 // height], -1)
    return Image.fromarray(values.astype(np.uint8), "RGBA")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 3000))
def test_tiles_cover_a_picture_once_and_start_at_whole_factors(width: int, height: int, factor: int, pixels: int) -> None:
    seen = np.zeros((height, width), int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "TILE_PIXELS", pixels)
        for left, top, right, bottom in tiles(width, height, factor):
            assert left % factor == top % factor == 0 and left < right and top < bottom
            seen[top:bottom, left:right] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("size", [(4000, 4000), (1, 10**6), (10**6, 1), (2 * 10**5, 200)], ids=str)
@pytest.mark.parametrize("longest", [96, 1400])
def test_tiles_stay_small_whatever_the_shape(size: tuple[int, int], longest: int) -> None:
    for fit in ("square", None):
        boxes = list(tiles(*size, reduction(size, SideConfig(longest, fit))))
        assert max((right - left) * (bottom - top) for left, top, right, bottom in boxes) < 2 * image.TILE_PIXELS
        assert len(boxes) < 60


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16", "CMYK"])
@pytest.mark.parametrize("factor", [1, 7])
def test_tiles_change_nothing(mode: str, factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(np.random.default_rng(5).integers(0, 65536, (40, 61)).astype(np.uint16))
    if mode != "I;16":
        noise = np.random.default_rng(5).integers(0, 256, (40, 61, 4)).astype(np.uint8)
        picture = Image.fromarray(noise, "RGBA")
        picture = picture if mode == "RGBA" else picture.convert("RGB").convert(mode)
    whole = to_rgb(picture, factor)
    monkeypatch.setattr(image, "TILE_PIXELS", 100)
    assert np.array_equal(to_rgb(picture, factor), whole)
    assert np.array_equal(np.asarray(Image.fromarray(to_rgb(picture)).reduce(factor)), whole)


@pytest.mark.parametrize("size", [(40, 61), (17, 9), (90, 64)])
def test_stripes_change_nothing(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(6).integers(0, 256, (33, 52, 3)).astype(np.uint8)
    whole = image.resize_cubic(picture, *size)
    monkeypatch.setattr(image, "STRIPE_PIXELS", 120)
    assert np.array_equal(image.resize_cubic(picture, *size), whole)


def test_a_picture_that_is_large_is_averaged_first_without_a_visible_difference(config: VLMConfig) -> None:
    side, large = SideConfig(96, "square"), photograph(1501, 1100)
    assert reduction(large.size, side) == 5
    difference = np.abs(see(large, config, side) - preprocess(to_rgb(large), config, side)) * STD[:, None, None] * 255
    assert difference.max() < 4 and difference.mean() < 0.3
    for small in (photograph(96, 96), photograph(575, 400)):
        assert np.array_equal(see(small, config, side), preprocess(to_rgb(small), config, side))


def test_the_official_rule_samples_the_picture_itself(config: VLMConfig) -> None:
    large = photograph(3000, 40)
    assert np.array_equal(see(large, config, SideConfig()), preprocess(to_rgb(large), config, SideConfig()))
    assert (reduction(large.size, SideConfig()), enough(SideConfig()), enough(SideConfig(96, "square"))) == (1, None, 288)


@pytest.mark.parametrize(("side", "megabytes"), [(SideConfig(96, "square"), 30), (SideConfig(), 150)], ids=["square", "official"])
def test_a_large_picture_takes_little_memory_beside_itself(config: VLMConfig, side: SideConfig, megabytes: int) -> None:
    large = Image.new("RGBA", (4000, 4000), (200, 30, 30, 128))
    tracemalloc.start()
    try:
        see(large, config, side)
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6
    finally:
        tracemalloc.stop()


def test_cmyk_is_ink_and_not_light() -> None:
    assert to_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0)))[0, 0].tolist() == [255, 0, 0]


def test_empty_and_unknown_pictures_are_refused() -> None:
    with pytest.raises(InvalidImage, match="0 x 5"):
        to_rgb(Image.new("RGB", (0, 5)))
    with pytest.raises(InvalidImage, match="La"):
        to_rgb(Image.new("La", (2, 2)))


def test_orientation_is_not_applied() -> None:
    picture = Image.new("RGB", (6, 2), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    assert to_rgb(through_file(picture, "jpeg", exif=exif)).shape == (2, 6, 3)


def test_fit_square_leaves_the_right_size_alone() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    assert fit_square(picture, 96) is picture


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(300, 200, 96, 64), (50, 100, 48, 96), (1, 1400, 1, 96), (10, 10, 96, 96)]
)
def test_fit_square_centres_on_the_colour_of_the_border(height: int, width: int, rows: int, columns: int) -> None:
    picture = np.full((height, width, 3), (10, 200, 60), np.uint8)
    middle = slice(height // 4, height * 3 // 4), slice(width // 4, width * 3 // 4)
    picture[middle] = (250, 0, 0)
    square = fit_square(picture, 96)
    assert square.shape == (96, 96, 3)
    top, left = (96 - rows) // 2, (96 - columns) // 2
    if rows < 96 and height > 4:
        assert np.abs(square[: top - 1].astype(int) - (10, 200, 60)).max() <= 1 and square[48, 48, 0] > 200
    if columns < 96:
        assert np.abs(square[:, : left - 1].astype(int) - (10, 200, 60)).max() <= 1


def test_fit_square_goes_before_the_official_rule(config: VLMConfig) -> None:
    pixels = preprocess(np.zeros((30, 70, 3), np.uint8), config, SideConfig(32, "square", None))
    assert pixels.shape == (3, 32, 32)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 70), st.integers(1, 70), st.integers(0, 255))
def test_resizing_keeps_flat_pictures_flat_and_mirrors(height: int, width: int, tall: int, wide: int, grey: int) -> None:
    assert np.abs(resize_cubic(np.full((height, width, 3), grey, np.uint8), tall, wide) - grey).max() < 1e-3
    picture = np.random.default_rng(grey).integers(0, 256, (height, width, 3)).astype(np.float32)
    there = resize_cubic(picture, tall, wide)
    assert np.abs(there[::-1, ::-1] - resize_cubic(picture[::-1, ::-1], tall, wide)).max() < 2e-2


def test_cubic_weights() -> None:
    """A single bright column enlarged twice: the kernel with a = -0.75 at distances of 0.25, 0.75, 1.25 and 1.75."""
    picture = np.zeros((1, 9, 1), np.float32)
    picture[0, 4] = 1
    near = [-0.03515625, -0.10546875, 0.26171875, 0.87890625]
    assert np.allclose(resize_cubic(picture, 1, 18)[0, 5:13, 0], near + near[::-1], atol=1e-6)


def test_the_longest_side_comes_from_the_side_config(config: VLMConfig) -> None:
    narrow = replace(config, merge=1)
    assert preprocess(np.zeros((100, 50, 3), np.uint8), narrow, SideConfig(40)).shape == (3, 40, 20)


def test_a_truncated_file_is_left_to_the_loader(tmp_path: Path) -> None:
    """The engine sees decoded pictures only; PIL raises when it is made to decode a broken one."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "jpeg")
    with pytest.raises(OSError):
        to_rgb(Image.open(io.BytesIO(file.getvalue()[:300])))
