"""Names and types of files: nothing that a caller sends gets into a path, or breaks a header."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import BadRequest
from sensorium.wire import filenames


@pytest.mark.parametrize(
    ("name", "media", "expected"),
    [
        ("a.txt", "text/plain", ("a.txt", "txt")),
        ("../../etc/passwd", "text/plain", ("passwd", "txt")),
        ("C:\\temp\\x.PNG", "image/png", ("x.PNG", "png")),
        ("", "image/png", ("file.png", "png")),
        ("..", "application/octet-stream", ("file.bin", "bin")),
        ("x.\0\r\nset-cookie", "image/gif", ("x.set-cookie", "gif")),
        ("archive.tar.gz", "application/gzip", ("archive.tar.gz", "gz")),
        ("Schöne Katze.jpg", "image/jpeg", ("Schöne Katze.jpg", "jpg")),
        ("x.verylongending", "x/unheard-of", ("x.verylongending", "bin")),
    ],
)
def test_a_name_and_its_ending(name: str, media: str, expected: tuple[str, str]) -> None:
    cleaned = filenames.cleaned(name, media)
    assert (cleaned, filenames.extension(cleaned, media)) == expected


@given(st.text(max_size=300), st.text(max_size=60))
def test_any_name_makes_a_safe_ending_and_header(name: str, media: str) -> None:
    cleaned = filenames.cleaned(name, media)
    assert re.fullmatch(r"[a-z0-9]{1,8}", filenames.extension(cleaned, media))
    line = filenames.disposition(cleaned, media)
    assert line.isascii()
    assert line.isprintable()
    assert re.fullmatch(r"(inline|attachment); filename=\"[^\"\\]*\"; filename\*=UTF-8''[A-Za-z0-9%._~-]*", line)


@pytest.mark.parametrize(
    ("media", "shown"),
    [
        *[
            (media, True)
            for media in ("image/png", "video/mp4", "audio/wav", "text/plain; charset=utf-8", "application/json", "application/pdf")
        ],
        *[
            (media, False)
            for media in ("text/html", "TEXT/HTML; x=y", "image/svg+xml", "image/svg", "IMAGE/SVG+XML", "text/xml", "application/xml")
        ],
        *[
            (media, False)
            for media in ("application/xhtml+xml", "text/javascript", "application/javascript", "text/css", "multipart/x-mixed-replace")
        ],
    ],
)
def test_what_a_browser_may_show(media: str, shown: bool) -> None:
    assert filenames.disposition("a", media).startswith("inline" if shown else "attachment")


def test_content_types() -> None:
    assert filenames.content_type("") == "application/octet-stream"
    assert filenames.content_type(" image/png ") == "image/png"
    assert filenames.content_type("text/plain; charset=utf-8") == "text/plain; charset=utf-8"
    for wrong in ("png", "image/", "image/png\r\nx: y", "image/é", "a/b; é", "a/" + "b" * 300, "a b/c"):
        with pytest.raises(BadRequest, match="no content type"):
            filenames.content_type(wrong)


def test_names_from_headers_are_utf8_as_asgi_shows_it() -> None:
    assert filenames.from_header("é.txt".encode().decode("latin-1")) == "é.txt"
    assert filenames.from_header("\xe9.txt") == "\xe9.txt"
