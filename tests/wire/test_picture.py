"""Magic bytes held against files that Pillow writes, and converting between formats."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from sensorium.errors import UpstreamFailed
from sensorium.wire import picture


def file(kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (6, 4), 1 if mode == "L" else (200, 30, 90)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "media"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
    ],
)
def test_twelve_bytes_tell_the_type(kind: str, media: str) -> None:
    assert picture.media_type(file(kind)[:12]) == media


@pytest.mark.parametrize("start", [b"", b"RIFF1234WAVE", b"%PDF-1.7", b"\x89PN", b"glTF\2\0\0\0", b"<svg"])
def test_other_bytes_have_none(start: bytes) -> None:
    assert picture.media_type(start) is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("media", picture.FORMATS)
def test_converting_changes_the_format_and_only_if_it_must(kind: str, media: str) -> None:
    raw = file(kind)
    converted = picture.convert(raw, media)
    assert picture.media_type(converted) == media
    assert (converted == raw) == (picture.media_type(raw) == media)
    with Image.open(io.BytesIO(converted)) as image:
        assert image.size == (6, 4)


@pytest.mark.parametrize("raw", [b"", b"not a picture", file("PNG")[:30], file("JPEG")[:60]])
def test_what_cannot_be_read_is_the_upstreams_failure(raw: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="cannot be read"):
        picture.convert(raw, "image/jpeg" if raw[:1] == b"\x89" else "image/png")
